"""Check, time and run this bundle; needs onnxruntime and numpy alone, Python 3.9 or newer.

    python run.py --check                 hash of every file, session, self-check
    python run.py --time --runs 200       p50 and p90 of one batch on this machine
    python run.py --predict inputs.npy    classes and probabilities, or shares of the pixels

From Python: `import run; outputs = run.predict(array)`. paretopress copies this file verbatim into every bundle and verifies
bundles with the same functions.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
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
SCHEMA, FORMAT_VERSION = 1, 2
PROVIDER = "CPUExecutionProvider"
AGAIN = "The folder was altered or only half copied: copy or export the bundle again."
WARM_UP_RUNS = 20
# Without class scores there is no argmax to compare; a step of an int8 output is 1/255 of its range, so this allows a dozen of them.
LOOSE_DIFFERENCE = 0.05
# What decides which kernels the runtime picks: x86 flags, then Arm features.
KERNEL_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "bf16", "sve")
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
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    """Return the manifest of a bundle; raises BrokenBundleError: missing, not JSON, another schema, altered, or without a key."""
    try:
        manifest: dict[str, Any] = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
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
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], names: Sequence[str] = FILES) -> None:
    """Raise BrokenBundleError unless every named file is there with the sha256 that the manifest records."""
    for name in names:
        path, recorded = folder / name, manifest["files"].get(name, {})
        if not path.is_file():
            raise BrokenBundleError(f"a bundle must hold {name}, but {path} is missing")
        actual = file_sha256(path)
        if actual != recorded.get("sha256"):
            raise BrokenBundleError(f"{name} must have sha256 {recorded.get('sha256')}, but got {actual}")


def session_options(options: Mapping[str, int]) -> ort.SessionOptions:
    """Return onnxruntime's session options; a name with a dot is a config entry such as "session.intra_op.allow_spinning".

    Raises: BrokenBundleError: a name that onnxruntime does not have.
    """
    result = ort.SessionOptions()
    result.log_severity_level = 4  # errors are raised anyway; printing them as well would break the one-line answers
    enums = {"graph_optimization_level": ort.GraphOptimizationLevel, "execution_mode": ort.ExecutionMode}
    for name, value in options.items():
        if "." in name:
            result.add_session_config_entry(name, str(value))
        elif not hasattr(ort.SessionOptions, name):
            raise BrokenBundleError(f"a session option must be one of onnxruntime {ort.__version__}, but got {name}={value}")
        else:
            setattr(result, name, enums.get(name, int)(value))
    return result


def open_session(model: Path, options: Mapping[str, int]) -> ort.InferenceSession:
    """Return a session on the CPU provider; raises BrokenBundleError: onnxruntime refuses the file or an option."""
    try:
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
            model takes several inputs, a dict of them by name. A model of a fixed batch takes any N. Never changed.
        bundle: from `load`; without it that of the folder of this file.
    Raises: WrongInputError: another dtype or shape. BrokenBundleError: the model cannot be run.
    """
    bundle = bundle or load()
    feed = feed_of(inputs, bundle.manifest["inputs"])
    return in_batches(bundle.session, feed, fixed_batch(bundle.session) or len(next(iter(feed.values()))))


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
        with np.load(bundle.folder / SELFCHECK, allow_pickle=False) as arrays:
            inputs = {spec["name"]: arrays[f"input_{index}"] for index, spec in enumerate(bundle.manifest["inputs"])}
            return inputs, [arrays[f"expected_{index}"] for index in range(len(bundle.manifest["outputs"]))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
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
    check_files(folder, manifest)
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
    lines = []
    for row, values in enumerate(probabilities(scores) if scores.ndim == 2 else shares_of_pixels(scores)):
        best = np.argsort(-values, kind="stable")[:top]
        shares = (f"{names[index] if index < len(names) else 'class'} ({index}) {values[index]:.4f}" for index in best)
        lines.append(f"{row}: " + ", ".join(shares))
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
        metavar="FILE.npy",
        type=Path,
        help="classes and probabilities of preprocessed inputs; FILE.npz where the model takes several",
    )
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
        else:
            print("\n".join(describe_predictions(load(folder), options.predict)))
    except (BrokenBundleError, WrongInputError, OSError) as error:
        print(f"{'self-check failed' if options.check else 'error'}: {one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a class name that the terminal's encoding lacks must not end in a traceback
    raise SystemExit(main())
