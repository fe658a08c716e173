"""Hashes of Python values by what they hold: code, constants, arrays and attributes; the same in every process."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import logging
import pathlib
import random
import sys
import sysconfig
import threading
import types
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Set
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PACKAGE = "paretopress"
# these are no code of the user's wherever they were built
_KNOWN = frozenset({_PACKAGE, "torch", "torchvision", "numpy", "onnx2torch"})
_INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented)})
_BY_REPR = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, np.dtype, range)
# what holds state that changes by being used, and decides nothing that its class does not
_BY_TYPE: tuple[type, ...] = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random, torch.Generator)
_BY_TYPE += (type(threading.Lock()), type(threading.RLock()), weakref.ReferenceType)
_BUILTIN: tuple[type, ...] = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType)
_BUILTIN += (types.ClassMethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType)
# of a class: what Python adds, and what decides nothing
_NOT_OF_A_CLASS = {
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__qualname__",
    "__annotations__",
    "__abstractmethods__",
    "_abc_impl",
}
_NOT_OF_A_CLASS |= {"__firstlineno__", "__static_attributes__", "__annotate_func__", "__annotations_cache__", "__parameters__"}
# of a module: kept apart below, or without effect in eval mode
_NOT_OF_A_MODULE = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook"}


class Contents:
    """Hashes values. One object's hash is computed once, and all that was hashed is held, so that no id is given out again.

    Attributes:
        unseen: names of the types that could not be looked into; what they hold is not in the hashes.
        globals: name -> hash of the values that functions read from their modules; part of no other hash, because they may change.
    """

    def __init__(self) -> None:
        self.unseen: dict[str, None] = {}
        self.globals: dict[str, bytes] = {}
        self._known: dict[int, tuple[object, bytes]] = {}
        self._open: list[int] = []
        self._read: deque[tuple[str, object]] = deque()

    def hexdigest(self, value: object) -> str:
        """Return the hash of a value, the globals that its functions read included."""
        found = self.digest(value)
        self.settle()
        return joined(found, *(joined(name.encode(), held) for name, held in sorted(self.globals.items()))).hex()

    def remark(self) -> str:
        """Return in words which types could not be looked into, in brackets; "" if there were none."""
        return f" ({', '.join(self.unseen)} not looked into)" if self.unseen else ""

    def settle(self) -> None:
        """Hash the globals that were met until now, and those that their functions read.

        One after the other, not inside of each other: a chain of functions can be longer than Python's stack is deep.
        """
        while self._read:
            name, value = self._read.popleft()
            found = self.digest(value)
            while self.globals.get(name, found) != found:  # another module has a global of that name too
                name += "'"
            self.globals[name] = found

    def digest(self, value: object) -> bytes:
        """Return the hash of a value."""
        if type(value) in _PLAIN:
            return self.text(value) if isinstance(value, str) else joined(_name(type(value)), repr(value).encode())
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._open:  # it holds itself
            return joined(b"above", str(len(self._open) - self._open.index(id(value))).encode())
        self._open.append(id(value))
        try:
            found = self.held(value)
        except RecursionError:
            found = self._not_seen(value)
        finally:
            self._open.pop()
        self._known[id(value)] = (value, found)
        return found

    def text(self, value: str) -> bytes:
        """Return the hash of a text."""
        return joined(b"str", value.encode(errors="surrogatepass"))

    def texts(self, values: Collection[Any]) -> bytes:
        """Return the hash of texts in their order."""
        return joined(b"texts", repr(list(values)).encode())

    def tensor(self, value: Tensor) -> bytes:
        """Return the hash of a tensor: type, shape and bytes."""
        kind = f"{value.dtype} {tuple(value.shape)}".encode()
        if value.is_meta:
            return joined(b"tensor", kind)
        if value.layout != torch.strided or value.is_quantized:
            return joined(b"tensor", kind, self.digest(value.dequantize() if value.is_quantized else value.to_dense()))
        flat = value.detach().cpu().contiguous().reshape(-1)
        return joined(b"tensor", kind, flat.view(torch.uint8).numpy() if flat.numel() else b"")

    def array(self, value: np.ndarray[Any, Any]) -> bytes:
        """Return the hash of an array: type, shape and bytes."""
        if value.dtype.hasobject:
            return joined(b"array", str(value.shape).encode(), self.sequence(value.reshape(-1).tolist()))
        kind = f"{value.dtype.descr} {value.shape}".encode()
        return joined(b"array", kind, np.ascontiguousarray(value).reshape(-1).view(np.uint8) if value.size else b"")

    def held(self, value: object) -> bytes:
        """Return the hash of a value that is met for the first time."""
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, np.generic):
            return joined(b"scalar", value.dtype.str.encode(), value.tobytes())
        if isinstance(value, _BY_REPR):
            return joined(_name(type(value)), repr(value).encode())
        if isinstance(value, _BY_TYPE):
            return _name(type(value))
        if isinstance(value, pathlib.PurePath):
            return self.text(str(value))
        if isinstance(value, logging.Logger | io.IOBase):
            return joined(_name(type(value)), self.digest(getattr(value, "name", None)))
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Enum):
            return joined(b"enum", type(value).__qualname__.encode(), value.name.encode(), self.digest(value.value))
        if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            return joined(b"operator", str(value).encode())
        return self._code(value) or self._container(value) or self._object(value)

    def module(self, value: nn.Module) -> bytes:
        """Return the hash of a module: its class, its tensors, its hooks, its other attributes and its children."""
        state = value.__dict__
        hooks = {name: list(held.values()) for name, held in state.items() if name.endswith("_hooks") and held}  # keys count up
        rest = {name: held for name, held in state.items() if "_hooks" not in name and name not in _NOT_OF_A_MODULE}
        parts = (state["_parameters"], state["_buffers"], state["_modules"], hooks, rest)
        return joined(b"module", self.digest(type(value)), *(self.digest(part) for part in parts))

    def _code(self, value: object) -> bytes | None:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.CodeType):
            return self._bytecode(value)
        if isinstance(value, types.MethodType):
            return joined(b"method", self.digest(value.__func__), self.digest(value.__self__))
        if isinstance(value, staticmethod | classmethod):
            return joined(_name(type(value)), self.digest(value.__func__))
        if isinstance(value, property):
            return joined(b"property", *(self.digest(part) for part in (value.fget, value.fset, value.fdel)))
        if isinstance(value, functools.partial):
            return joined(b"partial", *(self.digest(part) for part in (value.func, value.args, value.keywords)))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return joined(b"module", _owner(value.__name__).encode())
        if isinstance(value, _BUILTIN):
            return joined(b"builtin", f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', '')}".encode())
        if isinstance(value, functools._lru_cache_wrapper):
            return joined(b"cached", self.digest(value.__wrapped__))
        return None

    def _function(self, value: types.FunctionType) -> bytes:
        if is_installed(value.__module__):
            return joined(b"function", f"{_owner(value.__module__)} {value.__module__} {value.__qualname__}".encode())
        cells = [_cell(cell) for cell in value.__closure__ or ()]
        names = list(_names_read(value.__code__))
        for name in names:
            if name in value.__globals__:
                self._global(value, name, names)
        return joined(b"function", *(self.digest(part) for part in (value.__code__, value.__defaults__, value.__kwdefaults__, cells)))

    def _global(self, function: types.FunctionType, name: str, names: Iterable[str]) -> None:
        """Hash what a function reads from its module; of a module of the user's that it imports, the attributes that it names."""
        found = function.__globals__[name]
        if isinstance(found, types.ModuleType) and not is_installed(found.__name__):
            for attribute in names:
                if attribute in vars(found):
                    self._read.append((f"{name}.{attribute}", vars(found)[attribute]))
        else:
            self._read.append((name, found))

    def _bytecode(self, code: types.CodeType) -> bytes:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags, code.co_argcount)
        return joined(b"code", code.co_code, *(self.digest(part) for part in (code.co_consts, names, code.co_kwonlyargcount)))

    def _class(self, value: type) -> bytes:
        if is_installed(value.__module__):
            return joined(b"class", f"{_owner(value.__module__)} {value.__module__} {value.__qualname__}".encode())
        own = {name: held for name, held in vars(value).items() if name not in _NOT_OF_A_CLASS}
        return joined(b"class", value.__qualname__.encode(), self.digest(own), *(self.digest(base) for base in value.__bases__))

    def _container(self, value: object) -> bytes | None:
        if isinstance(value, list | tuple | deque):
            found = self.sequence(value)
        elif isinstance(value, Mapping):
            found = joined(*sorted(joined(self.digest(key), self.digest(held)) for key, held in value.items()))
        elif isinstance(value, Set):
            found = joined(*sorted(self.digest(held) for held in value))
        else:
            return None
        kind = type(value)
        if is_installed(kind.__module__):
            return joined(b"container", kind.__name__.encode(), found)
        return joined(b"container", self.digest(kind), found, self.digest(getattr(value, "__dict__", None)))

    def sequence(self, value: Collection[object]) -> bytes:
        """Return the hash of values in their order; of a long list of plain ones, or of tuples of them, in a fraction of the time."""
        kinds = set(map(type, value))
        if kinds and kinds <= _PLAIN:
            return self.texts(value) if kinds == {str} else joined(b"plain", repr(list(value)).encode(errors="surrogatepass"))
        if kinds == {tuple} and len(set(map(len, value))) == 1:  # type: ignore[arg-type]  # all of them are tuples
            columns = [self.sequence(column) for column in zip(*value, strict=True)]
            return joined(b"columns", str(len(value)).encode(), *columns)
        return joined(*(self.digest(held) for held in value))

    def _object(self, value: object) -> bytes:
        kind = type(value)
        if not is_installed(kind.__module__):
            return joined(b"object", self.digest(kind), self.digest(attributes(value)))
        try:
            reduced = value.__reduce_ex__(2)  # as it would be pickled
        except Exception:  # what cannot be pickled raises as it likes
            return self._not_seen(value)
        if isinstance(reduced, str):
            return joined(b"object", _name(kind), reduced.encode())
        made_by, args, state, *items = (*reduced, None, None)[:5] if len(reduced) > 2 else (*reduced, None)
        parts = (made_by, args, state, *(None if part is None else list(part) for part in items))
        return joined(b"object", _name(kind), *(self.digest(part) for part in parts))

    def _not_seen(self, value: object) -> bytes:
        name = _name(type(value))
        self.unseen[name.decode()] = None
        return joined(b"unseen", name)


def joined(*parts: Any) -> bytes:
    """Return the hash of several byte strings; where one ends and the next begins is part of it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} ".encode())
        digest.update(part)
    return digest.digest()


def attributes(value: object) -> dict[str, object]:
    """Return the attributes of an object, those in slots as well."""
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    return {name: getattr(value, name) for name in slots} | dict(getattr(value, "__dict__", {}))


@functools.cache
def is_installed(module: str | None) -> bool:
    """Return whether a module belongs to Python, to an installed package or to this one: its version stands for its code."""
    top = (module or "").partition(".")[0]
    if top in _KNOWN or top in sys.stdlib_module_names:
        return True
    place = getattr(sys.modules.get(top), "__file__", None)
    if place is None:  # what was typed in, or a folder of the user's without __init__.py
        return False
    parts = pathlib.Path(place)
    return bool(_INSTALLED_FOLDERS & set(parts.parts)) or parts.is_relative_to(sysconfig.get_path("stdlib"))


@functools.cache
def _owner(module: str) -> str:
    """Return the name and version of the package that a module belongs to; this package and Python are named elsewhere."""
    top = module.partition(".")[0]
    if not is_installed(module):
        return ""
    if top == _PACKAGE or top in sys.stdlib_module_names:
        return top
    version = getattr(sys.modules.get(top), "__version__", None)
    if version is None:
        try:
            version = importlib.metadata.version(top)
        except importlib.metadata.PackageNotFoundError:
            version = ""
    return f"{top} {version}"


def _name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}".encode() if is_installed(kind.__module__) else kind.__qualname__.encode()


def _slots(kind: type) -> tuple[str, ...]:
    found = vars(kind).get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(found)


def _cell(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is not filled yet
        return None


def _names_read(code: types.CodeType) -> dict[str, None]:
    """Return the names of globals and attributes that code reads, that of its inner functions too."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_read(constant)
    return names
