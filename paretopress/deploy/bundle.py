"""Writing a bundle: the measured ONNX file, its manifest, a self-check and a runner, in a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from paretopress.core.resampling import fitted_feed
from paretopress.deploy import bundle_run
from paretopress.deploy.card import model_card
from paretopress.deploy.verify import broken_as_bundle_error, runner_bytes, shipped_bytes, verify_bundle
from paretopress.errors import BundleError, ConfigError, DataError, RunFolderError

# On one CPU and runtime version reruns are bit-identical; 0.001 leaves room for another order of float sums across threads and stays
# below one step of an int8 output, 1/255 of its range.
MAX_DIFFERENCE_OF_RANGE = 1e-3
MIN_ARGMAX_AGREEMENT = 0.9
SELFCHECK_BATCH = 32
# input name -> (N, ...)
Samples = Mapping[str, np.ndarray[Any, Any]]
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What the bundle says about its model; every mapping must be plain JSON without NaN.

    Attributes:
        classes: names in the order of the output's columns, or () if they have none.
        preprocessing: what the caller does to an image before `predict`.
        measurements: figures with the unit in their name; a predicted one carries that word.
        conditions: under which they were measured: machine, versions, protocol; "batch" is the batch that `run.py --time` uses.
        plan: `Plan.to_json`.
        session_options: onnxruntime's, at least the two thread counts; the measured session's, and used by run.py.
        detection: of a detector whose boxes a known decoder reads: {"decoder", "size": [rows, columns], "classes"}, and the
            "anchors" of an SSD; else {}.
        independent_labels: whether each output is the logit of a label of its own, of which an item may have several, or none.
    """

    title: str
    classes: tuple[str, ...]
    preprocessing: Mapping[str, object]
    measurements: Mapping[str, object]
    conditions: Mapping[str, object]
    plan: Mapping[str, object]
    session_options: Mapping[str, int]
    detection: Mapping[str, object] = field(default_factory=dict)
    independent_labels: bool = False

    def __post_init__(self) -> None:
        for name in ("intra_op_num_threads", "inter_op_num_threads"):
            if not isinstance(self.session_options.get(name), int):
                raise ConfigError(f"session_options must hold a whole number {name}, but got {self.session_options.get(name)!r}")
        self.to_json()

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON objects; raises BundleError: a value that JSON does not have, NaN included."""
        result = {}
        for part in fields(self):
            try:
                result[part.name] = json.loads(json.dumps(getattr(self, part.name), allow_nan=False, default=_plain))
            except (TypeError, ValueError) as error:
                raise BundleError(f"{part.name} must be JSON, but got {bundle_run.one_line(error)}", "Leave out what is NaN.") from error
        return result


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r}")


def _interface(arguments: list[ort.NodeArg]) -> list[dict[str, Any]]:
    """Return name, shape (named or unknown dimensions as strings) and dtype of each input or output of a session."""
    result = []
    for argument in arguments:
        if argument.type not in DTYPES:
            raise BundleError(f"inputs and outputs must be one of {sorted(DTYPES)}, but got {argument.type} at {argument.name}")
        shape = [size if isinstance(size, int | str) else "?" for size in argument.shape]
        result.append({"name": argument.name, "shape": shape, "dtype": DTYPES[argument.type]})
    return result


def _checked_samples(samples: Samples, specs: list[dict[str, Any]]) -> int:
    """Return the batch in which the self-check runs `samples`; raises DataError: they do not fit the model's inputs."""
    shape = specs[0]["shape"]
    fixed = shape[0] if shape and isinstance(shape[0], int) else None
    count = min((len(array) if array.ndim else 0 for array in samples.values()), default=0)
    if count == 0:
        raise DataError("the number of samples must be positive, but got 0")
    try:
        bundle_run.feed_of(samples, specs)
    except bundle_run.WrongInputError as error:
        raise DataError(str(error).rstrip("."), "Hand over preprocessed samples.") from error
    if not all(np.isfinite(array).all() for array in samples.values()):
        raise DataError("samples must be finite, but got NaN or infinity", "Check the preprocessing.")
    return fixed or min(count, SELFCHECK_BATCH)


def _checked_outputs(outputs: list[np.ndarray[Any, Any]], samples: int, classes: tuple[str, ...]) -> None:
    for output in outputs:
        if output.ndim == 0 or len(output) != samples or not np.isfinite(output).all():
            raise BundleError(f"every output must hold finite values for each of {samples} samples, but got shape {output.shape}")
    if classes and len(classes) not in _class_axes(outputs[0].shape):
        raise BundleError(
            f"the first output must have a value for each of {len(classes)} class names, but got shape {outputs[0].shape}",
            "Give as many class names as the model has classes.",
        )


def _class_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lengths of the axes that may hold a value for each class.

    (N, classes) of items, (N, classes, H, W) of pixels, (N, candidates, classes) of boxes, (N, classes, positions) of sequences.
    """
    return shape[1:3] if len(shape) == 3 else shape[1:2]


def _tool_version() -> str:
    try:
        return metadata.version("paretopress")
    except metadata.PackageNotFoundError:
        return "not installed"


def _destination(to: Path) -> Path:
    """Return `to` as an absolute path; raises RunFolderError: something is there already."""
    destination = to.resolve()
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise RunFolderError(f"a bundle must go to a new or empty folder, but got {to}", "Name another folder, or remove this one.")
    return destination


def _copy_model(onnx: Path, copy: Path, sha256: str) -> None:
    if not onnx.is_file():
        raise BundleError(f"the ONNX file must exist, but got {onnx}", "Measure the candidate again to restore its file.")
    shutil.copyfile(onnx, copy)
    actual = bundle_run.file_sha256(copy)
    if actual != sha256:
        raise BundleError(
            f"model.onnx must be the measured file with sha256 {sha256}, but got {actual}",
            "The file changed after it was measured: measure the candidate again.",
        )


def _manifest(folder: Path, sha256: str, facts: BundleFacts, session: ort.InferenceSession) -> dict[str, Any]:
    """Return the manifest without the parts that the self-check and the files' hashes add."""
    return {
        "schema": bundle_run.SCHEMA,
        "format_version": bundle_run.FORMAT_VERSION,
        "tool": {"name": "paretopress", "version": _tool_version()},
        "sha256": sha256,
        "size_bytes": (folder / bundle_run.MODEL).stat().st_size,
        "provider": bundle_run.PROVIDER,
        "inputs": _interface(session.get_inputs()),
        "outputs": _interface(session.get_outputs()),
        **facts.to_json(),
    }


def _fill(folder: Path, sha256: str, facts: BundleFacts, samples: Samples | np.ndarray[Any, Any]) -> None:
    """Write everything around the model.onnx in `folder`: self-check, runner, card, and the manifest last."""
    session = bundle_run.open_session(folder / bundle_run.MODEL, facts.session_options)
    manifest = _manifest(folder, sha256, facts, session)
    if isinstance(samples, np.ndarray):
        samples = {manifest["inputs"][0]["name"]: samples}
    if facts.plan.get("resolution", 1.0) != 1.0:
        given, samples = samples, fitted_feed(samples, [(spec["name"], spec["shape"]) for spec in manifest["inputs"]])
        manifest["resized_from"] = {name: list(given[name].shape[2:]) for name in samples if samples[name] is not given[name]}
    batch = _checked_samples(samples, manifest["inputs"])
    outputs = bundle_run.in_batches(session, samples, batch)
    count = len(next(iter(samples.values())))
    _checked_outputs(outputs, count, facts.classes)
    kept = {f"input_{index}": samples[spec["name"]] for index, spec in enumerate(manifest["inputs"])}
    kept |= {f"expected_{index}": output for index, output in enumerate(outputs)}
    np.savez_compressed(folder / bundle_run.SELFCHECK, allow_pickle=False, **kept)
    manifest["selfcheck"] = {
        "samples": count,
        "batch": batch,
        "max_difference_of_range": MAX_DIFFERENCE_OF_RANGE,
        "min_argmax_agreement": MIN_ARGMAX_AGREEMENT,
        "cpu_family": bundle_run.cpu_family(),
        "onnxruntime": ort.__version__,
    }
    (folder / "run.py").write_bytes(runner_bytes())
    for name in set(bundle_run.files_of(manifest)) - set(bundle_run.FILES):
        (folder / name).write_bytes(shipped_bytes(name))
    (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
    manifest["files"] = {
        name: {"sha256": bundle_run.file_sha256(folder / name), "size_bytes": (folder / name).stat().st_size}
        for name in bundle_run.files_of(manifest)
    }
    manifest["manifest_sha256"] = bundle_run.manifest_digest(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / bundle_run.MANIFEST).write_text(text + "\n", encoding="utf-8")


def write_bundle(to: Path, *, onnx: Path, sha256: str, facts: BundleFacts, samples: Samples | np.ndarray[Any, Any]) -> Path:
    """Write the bundle into the folder `to`, verified, and return `to`.

    Args:
        onnx: the measured file; it must hold its weights itself, since its hash has to cover them.
        sha256: of the file that was measured, 64 hex digits.
        samples: preprocessed inputs of the self-check, (N, ...), by name or the only one; 32 or more make "90 % of the samples" meaningful.
    Raises: RunFolderError: `to` is a file or a folder that is not empty. DataError: the samples do not fit the model. BundleError: the
        file is not the measured one, does not load, or could not be written.
    Invariant: `to` holds a whole, verified bundle or is as it was before; nothing else is left beside it.
    """
    try:
        destination = _destination(to)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent, ignore_cleanup_errors=True) as beside:
            folder = Path(beside) / destination.name  # mkdtemp's own mode 0700 must not end up on the bundle
            folder.mkdir()
            _copy_model(onnx, folder / bundle_run.MODEL, sha256)
            with broken_as_bundle_error():
                _fill(folder, sha256, facts, samples)
            verify_bundle(folder)
            if os.name == "nt" and destination.exists():
                destination.rmdir()  # Windows does not rename over an empty folder, others do so in one step
            folder.rename(destination)
    except OSError as error:
        raise BundleError(f"the bundle must be written to {to}, but got {error}", "Check free space and permissions there.") from error
    return to
