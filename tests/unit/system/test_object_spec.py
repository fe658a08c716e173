from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.errors import ConfigError
from paretopress.system.object_spec import parse_spec, resolve


def test_parse_spec_splits_the_parts_when_all_are_given() -> None:
    spec = parse_spec("torchvision:CIFAR10?root=/data/c++&download=0")
    assert (spec.kind, spec.argument) == ("torchvision", "CIFAR10")
    assert spec.options == {"root": "/data/c++", "download": "0"}


def test_parse_spec_leaves_the_rest_empty_when_only_a_name_is_given() -> None:
    spec = parse_spec("digits")
    assert (spec.kind, spec.argument, spec.options) == ("digits", "", {})


@pytest.mark.parametrize("text", ["digits?size", "digits?size=", "digits?=3", "digits?size=3&"])
def test_parse_spec_raises_when_an_option_has_no_value(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_spec(text)


def test_parse_spec_raises_when_an_option_is_given_twice() -> None:
    with pytest.raises(ConfigError, match="'size' twice"):
        parse_spec("digits?size=3&size=4")


def test_allow_lists_the_keys_when_one_is_unknown() -> None:
    with pytest.raises(ConfigError, match="no option 'sise'") as caught:
        parse_spec("folder:x?sise=3").allow("size", "root", argument="PATH")
    assert "size, root" in caught.value.hint


def test_allow_raises_when_the_argument_is_missing_or_too_many() -> None:
    with pytest.raises(ConfigError, match="needs a PATH"):
        parse_spec("folder").allow(argument="PATH")
    with pytest.raises(ConfigError, match="takes no argument"):
        parse_spec("digits:16").allow("size")


def test_integer_returns_the_default_when_not_given() -> None:
    assert parse_spec("digits").integer("size", 8, minimum=4) == 8
    assert parse_spec("digits?size=16").integer("size", 8, minimum=4) == 16


@pytest.mark.parametrize("text", ["3", "-8", "1.5", "big"])
def test_integer_raises_when_the_value_is_bad(text: str) -> None:
    with pytest.raises(ConfigError, match=f"size={text}"):
        parse_spec(f"digits?size={text}").integer("size", 8, minimum=4)


def test_switch_accepts_zero_and_one_only_when_given() -> None:
    assert parse_spec("x?on=1").switch("on", default=False)
    assert not parse_spec("x?on=0").switch("on", default=True)
    assert parse_spec("x").switch("on", default=True)
    with pytest.raises(ConfigError, match="on=yes"):
        parse_spec("x?on=yes").switch("on", default=False)


def test_resolve_starts_from_base_when_the_path_is_relative(tmp_path: Path) -> None:
    assert resolve("a/b", tmp_path) == tmp_path / "a" / "b"
    assert resolve("a", None) == Path.cwd() / "a"
    assert resolve("/a", tmp_path) == Path("/a")
    assert resolve("~", tmp_path) == Path.home()
    assert parse_spec("x?root=a", tmp_path).path("root") == tmp_path / "a"
    assert parse_spec("x", tmp_path).path("root") is None
