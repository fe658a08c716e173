from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paretopress.errors import ConfigError, DataError, ModelError
from paretopress.system.user_factory import call_factory, is_factory


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("a.py:f", True), ("dir/a b.py:make_it2", True), ("a.py", False), ("a.py:", False), ("a.py:2f", False), ("digits", False)],
)
def test_is_factory_recognises_the_form_when_a_function_is_named(spec: str, expected: bool) -> None:
    assert is_factory(spec) is expected


def test_call_factory_returns_the_value_when_the_path_starts_from_base(tmp_path: Path) -> None:
    write(tmp_path / "sub", "make.py", "def number():\n    return 42\n")
    assert call_factory("sub/make.py:number", tmp_path, DataError) == 42


def test_call_factory_leaves_sys_path_as_it_was_when_the_file_changes_it(tmp_path: Path) -> None:
    write(tmp_path, "paths.py", "import sys\nsys.path.append('elsewhere')\ndef folder():\n    return sys.path[0]\n")
    before = list(sys.path)
    assert call_factory("paths.py:folder", tmp_path, DataError) == str(tmp_path.resolve())
    assert sys.path == before


def test_call_factory_leaves_sys_path_as_it_was_when_the_factory_raises(tmp_path: Path) -> None:
    write(tmp_path, "paths.py", "def fail():\n    raise ValueError('no')\n")
    before = list(sys.path)
    with pytest.raises(DataError):
        call_factory("paths.py:fail", tmp_path, DataError)
    assert sys.path == before


def test_call_factory_imports_its_own_neighbour_when_names_collide(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(tmp_path / name, "pp_neighbour.py", f"NAME = {name!r}\n")
        write(tmp_path / name, "make.py", "import pp_neighbour\ndef late():\n    import pp_neighbour as again\n    return again.NAME\n")
    assert call_factory("first/make.py:late", tmp_path, DataError) == "first"
    assert call_factory("second/make.py:late", tmp_path, DataError) == "second"


def test_call_factory_imports_once_when_two_factories_share_a_file(tmp_path: Path) -> None:
    write(tmp_path, "both.py", "class Thing: pass\ndef one(): return Thing\ndef two(): return Thing\n")
    one, two = (call_factory(f"both.py:{name}", tmp_path, DataError) for name in ("one", "two"))
    assert one is two


def test_call_factory_imports_again_when_the_content_changed(tmp_path: Path) -> None:
    write(tmp_path, "make.py", "def number(): return 1\n")
    assert call_factory("make.py:number", tmp_path, DataError) == 1
    write(tmp_path, "make.py", "def number(): return 2\n")
    assert call_factory("make.py:number", tmp_path, DataError) == 2


def test_call_factory_keeps_the_module_findable_when_a_dataclass_needs_it(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef make(): return A(3)\n"
    )
    write(tmp_path, "typed.py", text)
    value = call_factory("typed.py:make", tmp_path, DataError)
    assert type(value).__module__ in sys.modules


@pytest.mark.parametrize("failure", [DataError, ModelError])
def test_call_factory_quotes_the_error_when_the_factory_raises(tmp_path: Path, failure: type[DataError] | type[ModelError]) -> None:
    write(tmp_path, "make.py", "def fail():\n    x = {}\n    return x['photos']\n")
    with pytest.raises(failure, match=r"make.py:fail failed: KeyError: 'photos' \(make.py, line 3\)"):
        call_factory("make.py:fail", tmp_path, failure)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("import not_there_at_all\n", "not_there_at_all"), ("def (:\n", "SyntaxError"), ("import sys\nsys.exit(3)\n", "SystemExit: 3")],
)
def test_call_factory_quotes_the_error_when_the_file_does_not_import(tmp_path: Path, text: str, quoted: str) -> None:
    write(tmp_path, "broken.py", text)
    modules = set(sys.modules)
    with pytest.raises(DataError, match=f"broken.py could not be imported.*{quoted}"):
        call_factory("broken.py:make", tmp_path, DataError)
    assert not [name for name in sys.modules.keys() - modules if "broken" in name]


def test_call_factory_raises_when_the_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.py"):
        call_factory("none.py:make", tmp_path, DataError)


def test_call_factory_lists_the_functions_when_the_name_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, "make.py", "from pathlib import Path\nX = 3\ndef data(): ...\ndef model(): ...\n")
    for name in ("dta", "X"):
        with pytest.raises(ConfigError, match=f"no function '{name}'") as caught:
            call_factory(f"make.py:{name}", tmp_path, DataError)
        assert caught.value.hint == "It has: data, model."


@pytest.mark.parametrize("place", ["import absent_package\n\ndef make():\n    return 1\n", "def make():\n    import absent_package\n"])
def test_call_factory_says_what_to_install_when_a_package_is_missing(tmp_path: Path, place: str) -> None:
    (tmp_path / "needy.py").write_text(place)
    with pytest.raises(DataError, match="No module named 'absent_package'") as caught:
        call_factory("needy.py:make", tmp_path, DataError)
    assert caught.value.hint.startswith("Install the package that holds absent_package")
