"""Names from elsewhere stay in their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.core.confined_path import confined_path, flat_name
from paretopress.errors import OutsideFolderError
from paretopress.system.run_folder import RunFolder

OUTSIDE = [
    "",
    ".",
    "..",
    "../x",
    "trials/../../x",
    "trials//x",
    "/etc/passwd",
    "trials/",
    "a\\b",
    "C:/x",
    "C:x",
    "//server/share/x",
    "file:stream",
    "a\0b",
    "a\nb",
    "trials/nul",
    "COM1.onnx",
    "trials/x.",
    "x" * 2_000,
    7,
    None,
    ["x"],
]


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: repr(name)[:20])
def test_confined_path_refuses_when_a_name_leads_elsewhere(tmp_path: Path, name: object) -> None:
    with pytest.raises(OutsideFolderError):
        confined_path(tmp_path, name)
    with pytest.raises(OutsideFolderError):
        flat_name(name)


def test_confined_path_returns_the_path_when_it_lies_inside(tmp_path: Path) -> None:
    assert confined_path(tmp_path, "trials/0007/model.onnx") == tmp_path / "trials/0007/model.onnx"
    link = tmp_path / "run"
    (tmp_path / "there").mkdir()
    link.symlink_to(tmp_path / "there")
    assert confined_path(link, "x") == link / "x"


def test_confined_path_refuses_when_a_link_leads_out(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "inside").symlink_to(root)
    assert confined_path(root, "inside/x") == root / "inside/x"
    with pytest.raises(OutsideFolderError, match="leads to"):
        confined_path(root, "out/x")
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(OutsideFolderError):
        confined_path(root, "loop/x")


@pytest.mark.parametrize("name", ["storage-url", "config.json", "trials/0007/student.safetensors", "front.json", "trials/../baseline.onnx"])
def test_model_file_refuses_when_the_name_is_no_models(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutsideFolderError):
        RunFolder(tmp_path).model_file(name)


@pytest.mark.parametrize("name", ["baseline.onnx", "trials/0007/model.onnx", "finalists/12345/model.onnx"])
def test_model_file_returns_the_path_when_the_name_is_a_models(tmp_path: Path, name: str) -> None:
    assert RunFolder(tmp_path).model_file(name) == tmp_path / name
