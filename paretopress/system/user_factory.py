"""`file.py:factory` specs: import a user's file by its path and call one of its functions."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from paretopress.errors import ConfigError, InputError
from paretopress.system.object_spec import resolve

FOLDER_MARK = "__paretopress_folder__"
FACTORY = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")


def is_factory(spec: str) -> bool:
    """Return whether `spec` reads file.py:factory."""
    return FACTORY.fullmatch(spec) is not None


def call_factory(spec: str, base: Path | None, failure: type[InputError]) -> object:
    """Return what the factory that `spec` names returns; it is called without arguments.

    The file's folder can be imported from while the file loads and the factory runs; sys.path is as before afterwards. A file is
    imported once while its content stays the same, so that a model and data from one file share its classes.
    Raises: ConfigError: no such file, or no such function in it. `failure`: the file or the factory raised.
    """
    path = _file_of(spec, base)
    with _importable(path.parent):
        factory = _function(spec, path, failure)
        try:
            value: object = factory()
        except (Exception, SystemExit) as error:
            raise failure(f"{spec} failed: {_quote(error, path)}", _hint(error, "A factory is called without arguments.")) from error
        return value


def load_function(spec: str, base: Path | None, failure: type[InputError]) -> Callable[..., Any]:
    """Return the function that `spec` names; raises as `call_factory`."""
    path = _file_of(spec, base)
    with _importable(path.parent):
        return _function(spec, path, failure)


def _file_of(spec: str, base: Path | None) -> Path:
    parts = FACTORY.fullmatch(spec)
    assert parts is not None, spec
    path = resolve(parts["file"], base).resolve()
    if not path.is_file():
        raise ConfigError(f"the file of a factory must exist, but got {path} in the spec {spec!r}", "Give FILE.py:FUNCTION.")
    return path


def _function(spec: str, path: Path, failure: type[InputError]) -> Callable[..., Any]:
    name = spec.rpartition(":")[2]
    try:
        module = _import_file(path)
    except (Exception, SystemExit) as error:
        hint = _hint(error, "Run it with python to see the whole error.")
        raise failure(f"{path.name} could not be imported: {_quote(error, path)}", hint) from error
    found = getattr(module, name, None)
    if not callable(found):
        own = sorted(k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__)
        raise ConfigError(f"{path.name} has no function {name!r}", f"It has: {', '.join(own) or 'none'}.")
    return found  # type: ignore[no-any-return]  # whatever the user's file holds


def _hint(error: BaseException, otherwise: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"Install the package that holds {error.name}, in the environment that paretopress runs in."
    return otherwise


def _import_file(path: Path) -> ModuleType:
    content = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    name = f"_paretopress_{path.stem}_{content}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before the file runs: dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    path_before, modules_before = sys.path[:], set(sys.modules)
    _forget_namesakes(folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path_before
        for name in sys.modules.keys() - modules_before:
            if vars(sys.modules[name]).get("__file__") in (str(folder / f"{name}.py"), str(folder / name / "__init__.py")):
                setattr(sys.modules[name], FOLDER_MARK, folder)


def _forget_namesakes(folder: Path) -> None:
    """Drop what another factory imported from its own folder under a name that `folder` has too.

    Python would answer this factory's `import net` with the other folder's net, and the wrong network would be compressed.
    """
    for name, module in list(sys.modules.items()):
        home = getattr(module, "__dict__", {}).get(FOLDER_MARK, folder)
        if home != folder and ((folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()):
            for stale in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
                del sys.modules[stale]


def _quote(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f" ({path.name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"
