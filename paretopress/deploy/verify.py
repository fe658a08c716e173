"""Verification of a bundle: complete, unaltered, and computing here what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from paretopress.deploy import bundle_run
from paretopress.errors import BundleError

RUNNER_SOURCE = "bundle_run.py"
# file of some bundles -> the module of this package that it is
_SHIPPED = {
    bundle_run.BOXES: ("paretopress.core", "box_decoding.py"),
    bundle_run.PHOTO: ("paretopress.deploy", "bundle_photo.py"),
    bundle_run.RESIZE: ("paretopress.core", "resampling.py"),
}
# what Python imports from the folder of a script that it runs
_IMPORTED = {".py", ".pyc", ".so", ".pyd", ".dll", ".pth"}


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify_bundle` found in a bundle that passed.

    Attributes:
        sha256: of model.onnx, 64 hex digits; equals the measured file's.
        max_difference: largest absolute difference to the recorded outputs, as a share of their range.
        samples: inputs of the self-check.
        warnings: what a user of the figures must know, such as another CPU family than the measured one.
    """

    sha256: str
    max_difference: float
    samples: int
    warnings: tuple[str, ...]


def runner_bytes() -> bytes:
    """Return the file that every bundle holds as run.py."""
    return resources.files("paretopress.deploy").joinpath(RUNNER_SOURCE).read_bytes()


def shipped_bytes(name: str) -> bytes:
    """Return a file that the bundle of a detector, or of a model of a lower resolution, holds beside run.py."""
    package, source = _SHIPPED[name]
    return resources.files(package).joinpath(source).read_bytes()


@contextmanager
def broken_as_bundle_error() -> Iterator[None]:
    """Turn the shipped module's BrokenBundleError into BundleError."""
    try:
        yield
    except bundle_run.BrokenBundleError as error:
        raise BundleError(error.message, error.hint) from error


def verify_bundle(path: Path) -> Verification:
    """Return what was found in the bundle at `path`, which passed every check; nothing of the bundle's code is executed.

    Checked: manifest schema, digest, types and bounds, presence and sha256 of every file, run.py against this package's and no other code
    beside it, the session, and the self-check's outputs at the two levels of `bundle_run.self_check`.
    Raises: BundleError: any of these fails; with a hint.
    """
    if not path.is_dir():
        raise BundleError(f"a bundle must be a folder, but got {path}", "Name the folder that the export wrote.")
    try:
        with broken_as_bundle_error():
            bundle, found = bundle_run.check(path)
        runner = (path / "run.py").read_bytes()
    except OSError as error:
        raise BundleError(f"every file of a bundle must be readable, but got {error}", "Check the folder's permissions.") from error
    names = bundle_run.files_of(bundle.manifest)
    known = {*names, bundle_run.MANIFEST}
    code = sorted(entry.name for entry in path.iterdir() if entry.name not in known and (entry.is_dir() or entry.suffix in _IMPORTED))
    if code:
        raise BundleError(
            f"a bundle must hold no code beside run.py, but got {', '.join(code)[:200]} in {path}",
            "Python would import it in the place of a library when run.py runs: remove it.",
        )
    altered = [name for name in names if name in _SHIPPED and (path / name).read_bytes() != shipped_bytes(name)]
    if altered:
        raise BundleError(f"{altered[0]} must be the one of this paretopress, but got another", "Another version wrote it: export again.")
    if runner != runner_bytes():
        raise BundleError(
            "run.py must be the one of this paretopress, but got another",
            "It was altered, or another version wrote the bundle: check it with `python run.py --check`, or export again.",
        )
    sha256 = bundle.manifest["files"][bundle_run.MODEL]["sha256"]
    if bundle.manifest.get("sha256") != sha256:
        raise BundleError(
            f"manifest.json must name one sha256 of model.onnx, but got {bundle.manifest.get('sha256')} and {sha256}", bundle_run.AGAIN
        )
    return Verification(sha256, found.max_difference, found.samples, (found.warning,) if found.warning else ())
