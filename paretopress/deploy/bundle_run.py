"""Check, time and run this bundle; needs onnxruntime and numpy alone, Python 3.9 or newer.

    python run.py --check                 hash of every file, session, self-check
    python run.py --time --runs 200       p50 and p90 of one batch on this machine
    python run.py --predict inputs.npy    classes and probabilities, or shares of the pixels
    python run.py --predict photo.jpg --draw out.png    objects in a photo, where this is a detector

From Python: `import run; outputs = run.predict(array)`. paretopress copies this file verbatim into every bundle and verifies
bundles with the same functions.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import io
import json
import platform
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime as ort
except ImportError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"error: {missing}. Install them: pip install numpy onnxruntime") from missing

Array = np.ndarray[Any, Any]
HERE = Path(__file__).resolve().parent
MANIFEST, MODEL, SELFCHECK = "manifest.json", "model.onnx", "selfcheck.npz"
FILES = ("README.md", MODEL, "run.py", SELFCHECK)
# what the bundle of a detector holds beside them: how boxes are read from its outputs, and how photos become its input
BOXES, PHOTO = "boxes.py", "photo.py"
DETECTOR_FILES = (BOXES, PHOTO)
# and the bundle of a model that takes smaller images than its data has: how they are scaled
RESIZE = "resize.py"
SCHEMA, FORMAT_VERSION = 1, 2
PROVIDER = "CPUExecutionProvider"
AGAIN = "The folder was altered or only half copied: copy or export the bundle again."
WARM_UP_RUNS = 20
# Without class scores there is no argmax to compare; a step of an int8 output is 1/255 of its range, so this allows a dozen of them.
LOOSE_DIFFERENCE = 0.05
# What decides which kernels the runtime picks: x86 flags, then Arm features.
KERNEL_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "bf16", "sve")
# What a bundle may hold at most: it comes from elsewhere, and is read before anything of it is believed. 2 GiB is protobuf's own limit.
MOST_BYTES = {
    MANIFEST: 2**24,
    "README.md": 2**24,
    "run.py": 2**20,
    BOXES: 2**20,
    PHOTO: 2**20,
    RESIZE: 2**20,
    MODEL: 2**31,
    SELFCHECK: 2**32,
}
MOST_SAMPLES, MOST_NAMES, LONGEST_NAME, MOST_THREADS = 65_536, 256, 1_024, 1_024
# The session options that a manifest may set, with their values; others have onnxruntime write files, or read some from elsewhere.
SWITCH = range(2)
OPTIONS = {
    "intra_op_num_threads": range(MOST_THREADS + 1),
    "inter_op_num_threads": range(MOST_THREADS + 1),
    "graph_optimization_level": (0, 1, 2, 99),
    "execution_mode": SWITCH,
    "enable_cpu_mem_arena": SWITCH,
    "enable_mem_pattern": SWITCH,
    "enable_mem_reuse": SWITCH,
    "use_deterministic_compute": SWITCH,
    "session.intra_op.allow_spinning": SWITCH,
    "session.inter_op.allow_spinning": SWITCH,
    "session.force_spinning_stop": SWITCH,
    "session.set_denormal_as_zero": SWITCH,
    "session.disable_prepacking": SWITCH,
    "session.dynamic_block_base": range(MOST_THREADS + 1),
}
# What leads to a tensor in an ONNX file: message -> field -> message, and the two fields of a tensor that put its data into another file.
# Source: onnx.proto, ONNX 1.20.
TO_TENSORS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14
VARINT, FIXED64, SIZED, FIXED32 = 0, 1, 2, 5
KEYS = {"files": dict, "inputs": list, "outputs": list, "classes": list, "conditions": dict, "session_options": dict, "selfcheck": dict}


class BrokenBundleError(Exception):
    """The bundle is incomplete, altered, does not load, or computes something else here; the command exits 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = AGAIN) -> None:
        super().__init__(f"{message}. {hint}")
        self.message = message
        self.hint = hint


class WrongInputError(ValueError):
    """An array that the model does not take; the command exits 2."""

    exit_code = 2


@dataclass(frozen=True)  # no slots: they need Python 3.10
class Bundle:
    """An opened bundle: its manifest and a session with the manifest's options."""

    folder: Path
    manifest: Mapping[str, Any]
    session: ort.InferenceSession


@dataclass(frozen=True)
class SelfCheck:
    """How far the outputs here are from the recorded ones; `max_difference` is absolute, as a share of the output's recorded range."""

    samples: int
    max_difference: float
    warning: str


def one_line(error: BaseException) -> str:
    """Return the error's text without line breaks; onnxruntime's messages hold several."""
    return " ".join(str(error).split())


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's content without its own `manifest_sha256`, as canonical JSON."""
    content = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cpu_family() -> str:
    """Return architecture, vendor and the flags that decide which int8 and float kernels run; "" where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}" if platform.system() == "Windows" else ""
    lines = [line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines()]
    fields = {key.strip(): value.strip() for key, _, value in lines}
    vendor = fields.get("vendor_id") or fields.get("CPU implementer", "")
    flags = (fields.get("flags") or fields.get("Features", "")).split()
    return " ".join([platform.machine(), vendor, *(flag for flag in KERNEL_FLAGS if flag in flags)])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle.

    Raises: BrokenBundleError: missing, not JSON, another schema, altered, without a key, or with one that is not what it must be.
    """
    try:
        manifest: dict[str, Any] = dict(json.loads(inside(folder, MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BrokenBundleError(f"{MANIFEST} must be a JSON object, but got {one_line(error)}") from error
    found = (manifest.get("schema"), manifest.get("format_version"))
    if found != (SCHEMA, FORMAT_VERSION):
        raise BrokenBundleError(
            f"{MANIFEST} must have schema {SCHEMA} and format_version {FORMAT_VERSION}, but got {found[0]!r} and {found[1]!r}",
            "Use the run.py and the paretopress version that belong to this bundle.",
        )
    recorded, actual = manifest.get("manifest_sha256"), manifest_digest(manifest)
    if recorded != actual:
        raise BrokenBundleError(f"{MANIFEST} must have manifest_sha256 {recorded}, but got {actual}")
    for key, kind in KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise BrokenBundleError(f"{MANIFEST} must hold a {kind.__name__} named {key}, but got {manifest.get(key)!r}")
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise BrokenBundleError unless all that is used of a manifest is of its type and within its bounds: it is data from elsewhere."""
    names = manifest["files"]
    demand(set(names) <= {*FILES, *DETECTOR_FILES, RESIZE} and all(isinstance(facts, dict) for facts in names.values()), "files", names)
    demand(isinstance(manifest.get("independent_labels", False), bool), "independent_labels", manifest.get("independent_labels"))
    scaled = manifest.get("resized_from", {})
    demand(isinstance(scaled, dict) and all(map(is_image_size, scaled.values())), "resized_from", scaled)
    detection = manifest.get("detection")
    if detection:
        size = detection.get("size") if isinstance(detection, dict) else None
        demand(is_image_size(size), "detection.size", size)
        demand(is_text(detection.get("decoder")), "detection.decoder", detection.get("decoder"))
        anchors = detection.get("anchors", [])
        demand(isinstance(anchors, list) and all(map(is_box, anchors)), "detection.anchors", "of another form")
    for kind in ("inputs", "outputs"):
        specs = manifest[kind]
        demand(1 <= len(specs) <= MOST_NAMES, kind, specs)
        for spec in specs:
            demand(isinstance(spec, dict) and all(is_text(spec.get(key)) for key in ("name", "dtype")), kind, spec)
            shape = spec.get("shape")
            demand(isinstance(shape, list) and len(shape) <= MOST_NAMES, kind, spec)
            demand(all(is_text(size) or is_count(size, 2**31) for size in shape), kind, spec)
    demand(all(isinstance(name, str) for name in manifest["classes"]), "classes", manifest["classes"])
    batch = manifest["conditions"].get("batch", 1)
    demand(is_count(batch, MOST_SAMPLES), "conditions.batch", batch)
    recorded = manifest["selfcheck"]
    for key in ("samples", "batch"):
        demand(is_count(recorded.get(key), MOST_SAMPLES), f"selfcheck.{key}", recorded.get(key))
    for key in ("max_difference_of_range", "min_argmax_agreement"):
        share = recorded.get(key)
        demand(isinstance(share, (int, float)) and 0.0 <= share <= 1.0, f"selfcheck.{key}", share)
    for key in ("cpu_family", "onnxruntime"):
        demand(is_text(recorded.get(key)) or recorded.get(key) == "", f"selfcheck.{key}", recorded.get(key))


def demand(holds: bool, key: str, value: object) -> None:
    """Raise BrokenBundleError unless `holds`."""
    if not holds:
        raise BrokenBundleError(f"{MANIFEST} must hold {key} as a bundle of this version does, but got {repr(value)[:200]}")


def is_text(value: object) -> bool:
    """Return whether a value is a short text that a terminal can show."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def is_count(value: object, most: int) -> bool:
    """Return whether a value is a whole number from 1 to `most`."""
    return type(value) is int and 1 <= value <= most


def is_image_size(value: object) -> bool:
    """Return whether a value is [rows, columns] of an image."""
    return isinstance(value, list) and len(value) == 2 and all(is_count(side, 2**16) for side in value)


def is_box(value: object) -> bool:
    """Return whether a value is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(type(side) in (int, float) for side in value)


def inside(folder: Path, name: str) -> Path:
    """Return the path of a bundle's file; raises BrokenBundleError: missing, a link that leads out of the folder, or too large."""
    path = folder / name
    if not path.is_file():
        raise BrokenBundleError(f"a bundle must hold {name}, but {path} is missing")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BrokenBundleError(f"{name} must lie in the bundle, but it is a link to {path.resolve()}")
    if path.stat().st_size > MOST_BYTES[name]:
        raise BrokenBundleError(f"{name} must have at most {MOST_BYTES[name]} bytes, but got {path.stat().st_size}")
    return path


def files_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the files that a bundle holds beside its manifest."""
    return (*FILES, *(DETECTOR_FILES if manifest.get("detection") else ()), *((RESIZE,) if manifest.get("resized_from") else ()))


def check_files(folder: Path, manifest: Mapping[str, Any], names: Sequence[str] = FILES) -> None:
    """Raise BrokenBundleError unless every named file is there with the sha256 that the manifest records."""
    for name in names:
        recorded = manifest["files"].get(name, {})
        actual = file_sha256(inside(folder, name))
        if actual != recorded.get("sha256"):
            raise BrokenBundleError(f"{name} must have sha256 {recorded.get('sha256')}, but got {actual}")


def session_options(options: Mapping[str, int]) -> ort.SessionOptions:
    """Return onnxruntime's session options; a name with a dot is a config entry such as "session.intra_op.allow_spinning".

    Raises: BrokenBundleError: a name or a value that is not in OPTIONS.
    """
    result = ort.SessionOptions()
    result.log_severity_level = 4  # errors are raised anyway; printing them as well would break the one-line answers
    enums = {"graph_optimization_level": ort.GraphOptimizationLevel, "execution_mode": ort.ExecutionMode}
    for name, value in options.items():
        if name not in OPTIONS or type(value) is not int or value not in OPTIONS[name]:
            allowed = f"{name} in {OPTIONS[name]}" if name in OPTIONS else f"one of {', '.join(OPTIONS)}"
            raise BrokenBundleError(f"a session option must be {allowed}, but got {repr(name)[1:-1]}={value!r}"[:1_000])
        if "." in name:
            result.add_session_config_entry(name, str(value))
        else:
            setattr(result, name, enums.get(name, int)(value))
    return result


def holds_its_weights(model: bytes) -> bool:
    """Return whether an ONNX file names no other file for the data of a tensor, in any graph, attribute or function of it.

    Only the structure of the messages is read, so that numpy and onnxruntime stay all that is needed.
    Raises: ValueError: the bytes are no protobuf message.
    Source: "Encoding" in the documentation of Protocol Buffers.
    """
    waiting = [("model", 0, len(model))]
    while waiting:
        kind, position, end = waiting.pop()
        while position < end:
            key, position = read_varint(model, position)
            field, wire = key >> 3, key & 7
            if wire == SIZED:
                size, position = read_varint(model, position)
                if field in TO_TENSORS[kind]:
                    waiting.append((TO_TENSORS[kind][field], position, position + size))
                position += size
            elif wire == VARINT:
                size, position = read_varint(model, position)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
                position += size
            else:
                raise ValueError(f"wire type {wire} at byte {position}")
            if position > end:
                raise ValueError(f"a message that ends before byte {position}")
            if kind == "tensor" and (field == EXTERNAL_DATA or (field == DATA_LOCATION and size != 0)):
                return False
    return True


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return (number, position behind it) of protobuf's whole numbers: seven bits a byte, the lowest first; raises ValueError."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError(f"a number without an end at byte {position}")


def open_session(model: Path, options: Mapping[str, int]) -> ort.InferenceSession:
    """Return a session on the CPU provider.

    Raises: BrokenBundleError: onnxruntime refuses the file, an option is not allowed, or weights lie in other files, which no hash covers.
    """
    try:
        if not holds_its_weights(model.read_bytes()):
            raise BrokenBundleError(f"{model.name} must load from its own bytes, but it names other files for its weights")
        return ort.InferenceSession(str(model), session_options(options), providers=[PROVIDER])
    except BrokenBundleError:
        raise
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        raise BrokenBundleError(
            f"{model.name} must load in onnxruntime {ort.__version__}, but got {one_line(error)}",
            "Install the onnxruntime version that the manifest names.",
        ) from error


@functools.lru_cache(maxsize=1)
def load(folder: Path = HERE) -> Bundle:
    """Return the bundle in `folder`, opened once and kept; raises BrokenBundleError: a file of it is missing or altered."""
    manifest = read_manifest(folder)
    check_files(folder, manifest, (MODEL, SELFCHECK))
    return Bundle(folder, manifest, open_session(folder / MODEL, manifest["session_options"]))


def check_input(array: Array, spec: Mapping[str, Any]) -> None:
    """Raise WrongInputError unless `array` has the dtype and shape of a manifest's input.

    A named dimension takes any size >= 1, and so does the first: a fixed batch is run in pieces.
    """
    if str(array.dtype) != spec["dtype"]:
        raise WrongInputError(f"input {spec['name']} must be {spec['dtype']}, but got {array.dtype}. Use array.astype('{spec['dtype']}').")
    shape = spec["shape"]
    fits = array.ndim == len(shape) and all(
        size == shape[axis] if axis and isinstance(shape[axis], int) else size >= 1 for axis, size in enumerate(array.shape)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in shape)
        raise WrongInputError(f"input {spec['name']} must have shape ({wanted}), but got {array.shape}.")


def feed_of(inputs: Array | Mapping[str, Array], specs: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return input name -> array; raises WrongInputError unless there is one for each of a manifest's inputs, all of one batch."""
    feed = {specs[0]["name"]: inputs} if isinstance(inputs, np.ndarray) else dict(inputs)
    names = [spec["name"] for spec in specs]
    if sorted(feed) != sorted(names):
        raise WrongInputError(f"the inputs must be {', '.join(names)}, but got {', '.join(map(str, feed))}. Give a dict of arrays.")
    for spec in specs:
        check_input(feed[spec["name"]], spec)
    if len({len(array) for array in feed.values()}) > 1:
        raise WrongInputError(f"all inputs must have one batch, but got {', '.join(f'{len(a)} of {n}' for n, a in feed.items())}.")
    return feed


def predict(inputs: Array | Mapping[str, Array], bundle: Bundle | None = None) -> list[Array]:
    """Return the model's outputs, in the manifest's order; each has N rows, (N, classes) where the model scores classes.

    Args:
        inputs: preprocessed as the manifest says, (N, C, H, W) float32 of images, (N, positions) int64 of tokens, N = batch; where the
            model takes several inputs, a dict of them by name. A model of a fixed batch takes any N. Images of the data's size are
            scaled where the model takes smaller ones. Never changed.
        bundle: from `load`; without it that of the folder of this file.
    Raises: WrongInputError: another dtype or shape. BrokenBundleError: the model cannot be run.
    """
    bundle = bundle or load()
    feed = feed_of(scaled_inputs(inputs, bundle), bundle.manifest["inputs"])
    return in_batches(bundle.session, feed, fixed_batch(bundle.session) or len(next(iter(feed.values()))))


def scaled_inputs(inputs: Array | Mapping[str, Array], bundle: Bundle) -> Array | Mapping[str, Array]:
    """Return inputs whose images of the data's size are scaled to the model's; raises BrokenBundleError: resize.py was altered."""
    sizes, specs = bundle.manifest.get("resized_from", {}), bundle.manifest["inputs"]
    feed = {specs[0]["name"]: inputs} if isinstance(inputs, np.ndarray) else dict(inputs)
    shapes = {
        spec["name"]: spec["shape"] for spec in specs if list(feed.get(spec["name"], np.zeros(0)).shape[2:]) == sizes.get(spec["name"])
    }
    if not shapes:
        return feed
    (resize,) = shipped_modules(bundle, (RESIZE,))
    return {name: resize.fitted(array, shapes[name]) if name in shapes else array for name, array in feed.items()}


def shipped_modules(bundle: Bundle, names: Sequence[str]) -> list[Any]:
    """Return files of the bundle as modules; raises BrokenBundleError: one was altered."""
    recorded = bundle.manifest["files"]
    return [module_of(bundle.folder, name, recorded.get(name, {}).get("sha256")) for name in names]


@functools.lru_cache(maxsize=8)
def module_of(folder: Path, name: str, sha256: str) -> Any:
    """Return a file as a module, whatever other modules are called; checked and read once, and nothing is written beside it."""
    check_files(folder, {"files": {name: {"sha256": sha256}}}, (name,))
    spec = importlib.util.spec_from_file_location(f"bundle_{Path(name).stem}", folder / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes_none
    return module


def fixed_batch(session: ort.InferenceSession) -> int | None:
    """Return the batch that the model takes, None if it takes any."""
    first = next(iter(session.get_inputs()[0].shape), None)
    return first if isinstance(first, int) and first > 0 else None


def run_session(session: ort.InferenceSession, feed: Mapping[str, Array]) -> list[Array]:
    """Return all outputs of one run; raises BrokenBundleError: onnxruntime failed."""
    try:
        return [np.asarray(output) for output in session.run(None, dict(feed))]
    except Exception as error:  # as in open_session
        raise BrokenBundleError(f"{MODEL} must run, but got {one_line(error)}") from error


def in_batches(session: ort.InferenceSession, samples: Mapping[str, Array], batch: int) -> list[Array]:
    """Return the outputs of all samples, run `batch` at a time: dynamic quantisation scales by the batch, so it must not vary.

    The last batch of a model that takes no other is filled up with the last sample.
    """
    count = len(next(iter(samples.values())))
    filled = fixed_batch(session) is not None
    parts = []
    for start in range(0, count, batch):
        rows = [min(row, count - 1) for row in range(start, start + batch if filled else min(start + batch, count))]
        parts.append(run_session(session, {name: array[rows] for name, array in samples.items()}))
    return [np.concatenate([part[index] for part in parts])[:count] for index in range(len(parts[0]))]


def difference(expected: Array, actual: Array) -> float:
    """Return the largest absolute difference as a share of the expected values' range; NaN where a value is not finite."""
    if expected.shape != actual.shape:
        raise BrokenBundleError(f"an output must have shape {expected.shape}, but got {actual.shape}")
    wanted, got = expected.astype(np.float64), actual.astype(np.float64)
    if not np.isfinite(got).all():
        return float("nan")
    scale = np.ptp(wanted) or np.abs(wanted).max() or 1.0
    return float(np.abs(wanted - got).max() / scale)


def agreement(expected: Array, actual: Array) -> float:
    """Return the share of samples with the same argmax over axis 1; without two scores on it, 1.0 if all is within 5 % of the range."""
    if not np.isfinite(actual).all():
        return 0.0
    if expected.ndim >= 2 and expected.shape[1] >= 2:
        return float(np.mean(expected.argmax(axis=1) == actual.argmax(axis=1)))
    return float(difference(expected, actual) <= LOOSE_DIFFERENCE)


def read_samples(bundle: Bundle) -> tuple[dict[str, Array], list[Array]]:
    """Return the recorded inputs by name and the expected outputs; raises BrokenBundleError: selfcheck.npz cannot be read."""
    try:
        with np.load(inside(bundle.folder, SELFCHECK), allow_pickle=False) as arrays:
            unpacked = sum(entry.file_size for entry in arrays.zip.infolist())
            if unpacked > MOST_BYTES[SELFCHECK]:
                raise ValueError(f"{unpacked} bytes when unpacked")
            inputs = {spec["name"]: arrays[f"input_{index}"] for index, spec in enumerate(bundle.manifest["inputs"])}
            return inputs, [arrays[f"expected_{index}"] for index in range(len(bundle.manifest["outputs"]))]
    except (OSError, ValueError, KeyError, AttributeError, MemoryError, zipfile.BadZipFile) as error:
        raise BrokenBundleError(f"{SELFCHECK} must hold inputs and expected outputs, but got {one_line(error)}") from error


def self_check(bundle: Bundle) -> SelfCheck:
    """Run the recorded samples and compare with the recorded outputs, at two levels.

    int8 and float kernels differ between CPUs and runtime versions. On the recorded CPU family and onnxruntime version every
    difference must be within `max_difference_of_range` (0.001) of the output's range. Elsewhere outputs beyond that pass with a
    warning if at least `min_argmax_agreement` (0.9) of the samples have the same argmax.
    Raises: BrokenBundleError: the outputs differ by more.
    """
    recorded = bundle.manifest["selfcheck"]
    samples, expected = read_samples(bundle)
    try:
        feed_of({name: array[: recorded["batch"]] for name, array in samples.items()}, bundle.manifest["inputs"])
    except (WrongInputError, IndexError) as error:
        raise BrokenBundleError(f"{SELFCHECK} must hold inputs of the model, but got {one_line(error)}") from error
    actual = in_batches(bundle.session, samples, recorded["batch"])
    worst = float(np.max([difference(wanted, actual[index]) for index, wanted in enumerate(expected)]))
    same = min(agreement(wanted, actual[index]) for index, wanted in enumerate(expected))
    there = (recorded["cpu_family"], recorded["onnxruntime"])
    return SelfCheck(len(expected[0]), worst, judge(worst, same, recorded, (cpu_family(), ort.__version__), there))


def judge(worst: float, same: float, limits: Mapping[str, Any], here: tuple[str, str], there: tuple[str, str]) -> str:
    """Return "" or a warning by the two levels of `self_check`; `here` and `there` are (CPU family, onnxruntime version)."""
    strict, loose = limits["max_difference_of_range"], limits["min_argmax_agreement"]
    if worst <= strict:
        return ""
    same_kernels = here == there and here[0] != ""
    if same_kernels or not same >= loose:
        rule = f"outputs must be within {strict:g} of their range" if same_kernels else f"{loose:.0%} of the samples must keep their argmax"
        raise BrokenBundleError(
            f"{rule}, but got a difference of {worst:.3g} of the range and {same:.1%} with the same argmax",
            "This machine does not compute what was measured: do not deploy on it, or export for it again.",
        )
    return (
        f"outputs differ by up to {worst:.3g} of their range, {same:.1%} of the samples keep their argmax: recorded on [{there[0]}] with "
        f"onnxruntime {there[1]}, run on [{here[0]}] with {here[1]}; measure accuracy and latency here before relying on the figures"
    )


def check(folder: Path = HERE) -> tuple[Bundle, SelfCheck]:
    """Check manifest, every file's hash, session and self-check; raises BrokenBundleError: the first of them that fails."""
    manifest = read_manifest(folder)
    check_files(folder, manifest, files_of(manifest))
    bundle = Bundle(folder, manifest, open_session(folder / MODEL, manifest["session_options"]))
    return bundle, self_check(bundle)


def time_runs(bundle: Bundle, runs: int) -> str:
    """Return one line with p50 and p90 in milliseconds of one batch, after warm-up, with the manifest's threads."""
    spec, options = bundle.manifest["inputs"][0], bundle.manifest["session_options"]
    measured = bundle.manifest["conditions"].get("batch")
    batch = next((size for size in (spec["shape"][0], measured) if isinstance(size, int) and size >= 1), 1)
    samples, _ = read_samples(bundle)
    feed = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in samples.items()}  # repeats them where they are fewer
    times_ms = []
    for _ in range(WARM_UP_RUNS + runs):
        start = time.perf_counter()
        run_session(bundle.session, feed)
        times_ms.append((time.perf_counter() - start) * 1e3)
    p50, p90 = np.percentile(times_ms[WARM_UP_RUNS:], [50, 90])
    return (
        f"p50 {p50:.3f} ms, p90 {p90:.3f} ms, batch {batch}, {runs} runs after {WARM_UP_RUNS} of warm-up, threads "
        f"intra_op {options['intra_op_num_threads']} inter_op {options['inter_op_num_threads']}, onnxruntime {ort.__version__}"
    )


def probabilities(scores: Array) -> Array:
    """Return (N, classes) float64 probabilities: the softmax of the scores, or the scores where they already are probabilities."""
    values = scores.astype(np.float64)
    if (values >= 0.0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        return values
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def describe_predictions(bundle: Bundle, path: Path, top: int = 3) -> list[str]:
    """Return one line per input of a .npy file, or of an .npz file of several: its most probable classes, or its largest by pixels.

    Raises: WrongInputError: not arrays that the model takes.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        feed = {str(bundle.manifest["inputs"][0]["name"]): loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WrongInputError(f"{path} must be a .npy or .npz file of numbers, but got {one_line(error)}.") from error
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in feed.values()):
        raise WrongInputError(f"{path} must hold finite numbers, but got NaN or infinity.")
    scores = predict(feed, bundle)[0]
    if scores.ndim != 2 and not (scores.ndim == 4 and bundle.manifest["classes"]):
        raise BrokenBundleError(
            f"the first output must be (N, classes) or (N, classes, H, W) to name classes, but got {scores.shape}", "Call predict instead."
        )
    names = bundle.manifest["classes"]
    if bundle.manifest.get("independent_labels"):
        return [f"{row}: {labels_told(values, names, top)}" for row, values in enumerate(1.0 / (1.0 + np.exp(-scores.astype(np.float64))))]
    lines = []
    for row, values in enumerate(probabilities(scores) if scores.ndim == 2 else shares_of_pixels(scores)):
        best = np.argsort(-values, kind="stable")[:top]
        lines.append(f"{row}: " + ", ".join(named(names, index, values[index]) for index in best))
    return lines


def named(names: Sequence[str], index: int, share: float) -> str:
    """Return a class with its number and its probability or share."""
    return f"{names[index] if index < len(names) else 'class'} ({index}) {share:.4f}"


def labels_told(chances: Array, names: Sequence[str], top: int) -> str:
    """Return the labels of an item that are more probable than not, the `top` most probable ones; of none the most probable."""
    best = np.argsort(-chances, kind="stable")
    told = [named(names, index, chances[index]) for index in best[:top] if chances[index] > 0.5]
    return ", ".join(told) or f"none; most probable {named(names, int(best[0]), chances[best[0]])}"


def describe_objects(bundle: Bundle, path: Path, draw: Path | None) -> list[str]:
    """Return one line per object that a detector finds in a photo, which is drawn into another file if that is named.

    Raises: WrongInputError: it is no photo. BrokenBundleError: the bundle is none of a detector, or a file of it was altered.
    """
    if not bundle.manifest.get("detection"):
        raise WrongInputError(f"a photo is for the bundle of a detector, but got {path}; others take arrays, a .npy or .npz file.")
    boxes, photo = shipped_modules(bundle, DETECTOR_FILES)
    try:
        found = photo.find_objects(boxes, bundle.manifest, lambda x: predict(x, bundle), path)
        if draw is not None:
            photo.draw_objects(path, found, draw)
    except (OSError, ValueError) as error:
        raise WrongInputError(f"{path} must be a photo, but got {one_line(error)}.") from error
    lines: list[str] = photo.described(found)
    return lines


def shares_of_pixels(scores: Array) -> Array:
    """Return (N, classes) float64: the share of the pixels of each item in which a class of (N, classes, H, W) scores highest."""
    highest = scores.argmax(axis=1).reshape(len(scores), -1)
    return np.stack([(highest == index).mean(axis=1) for index in range(scores.shape[1])], axis=1)


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> int:
    """Run the command line; returns the exit code: 0, 1 (the bundle failed) or 2 (bad input)."""
    parser = argparse.ArgumentParser(description="Check, time or run this bundle.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="hash of every file, session, self-check")
    mode.add_argument("--time", action="store_true", help="p50 and p90 of one batch on this machine")
    mode.add_argument(
        "--predict",
        metavar="FILE",
        type=Path,
        help="classes and probabilities of preprocessed inputs in a .npy file, .npz where the model takes several; a photo for a detector",
    )
    parser.add_argument("--draw", metavar="OUT.png", type=Path, help="where --predict draws the objects of a photo")
    parser.add_argument("--runs", type=int, default=200, help="timed runs of --time")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs must be at least 1, but got {options.runs}")
    try:
        if options.check:
            bundle, found = check(folder)
            if found.warning:
                print(f"warning: {found.warning}", file=sys.stderr)
            sha256 = bundle.manifest["files"][MODEL]["sha256"]
            print(
                f"self-check passed: {found.samples} samples, difference {found.max_difference:.3g} of the range, {MODEL} sha256 {sha256}"
            )
        elif options.time:
            print(time_runs(load(folder), options.runs))
        elif options.predict.suffix.lower() in (".npy", ".npz"):
            print("\n".join(describe_predictions(load(folder), options.predict)))
        else:
            print("\n".join(describe_objects(load(folder), options.predict, options.draw)))
    except (BrokenBundleError, WrongInputError, OSError) as error:
        print(f"{'self-check failed' if options.check else 'error'}: {one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a class name that the terminal's encoding lacks must not end in a traceback
    raise SystemExit(main())
