"""ONNX Runtime's CPU provider as a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from paretopress.core.arrays import Feed
from paretopress.errors import LatencyError, first_line
from paretopress.runtimes.runtime import OpenFile, SessionSettings

PROVIDERS = ("CPUExecutionProvider",)
LOG_ERRORS_ONLY = 3
_FLOATS: dict[str, npt.DTypeLike] = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_WHOLE: dict[str, npt.DTypeLike] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def open_session(
    path: Path,
    settings: SessionSettings,
    *,
    profile_prefix: Path | None = None,
    optimised: Path | None = None,
    beside_others: bool = False,
    timed: bool = True,
) -> ort.InferenceSession:
    """Return a new session on the CPU provider.

    With `profile_prefix` it writes a profile to files of that name; with `optimised` it writes the graph that it runs there. The threads
    of one that is not `timed` sleep while they wait: spinning takes cores from others, and on two cores it made scoring slower, by 20 % on
    an idle machine and beside one busy process. One that is `beside_others` leaves them the memory between two runs as well.
    Raises: LatencyError: the runtime does not load the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = settings.inter_op
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if settings.inter_op > 1 else ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = LOG_ERRORS_ONLY
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if beside_others:
        options.enable_cpu_mem_arena = False  # an arena keeps what the largest run took: for 128 photos, gigabytes
    if beside_others or not timed:
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=list(PROVIDERS))
    except Exception as error:  # the runtime's exceptions share no base class but Exception
        raise LatencyError(f"ONNX Runtime must load the file, but got: {first_line(error)} at {path.name}") from error


def random_feed(source: Path | ort.InferenceSession, rng: np.random.Generator, rows: Mapping[str, int] | None = None) -> Feed:
    """Return random arrays for every input of a file or session; dynamic dimensions become 1.

    Floats are standard normal. Whole numbers are below `rows`, input -> rows of the table that it is looked up in, and 1 for an input
    that is not named there, as a mask that leaves everything.
    Raises: LatencyError: an input is neither, or the file does not load.
    """
    session = open_session(source, SessionSettings()) if isinstance(source, Path) else source
    feed: dict[str, npt.NDArray[Any]] = {}
    for node in session.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in node.shape]
        if node.type in _FLOATS:
            feed[node.name] = rng.standard_normal(shape, dtype=np.float32).astype(_FLOATS[node.type])
        elif node.type in _WHOLE:
            bound = (rows or {}).get(node.name)
            drawn = np.ones(shape) if bound is None else rng.integers(bound, size=shape)
            feed[node.name] = drawn.astype(_WHOLE[node.type])
        else:
            raise LatencyError(
                f"a random feed needs inputs of floats or whole numbers, but got {node.type} at {node.name}", "Pass a feed of real inputs."
            )
    return feed


def run_session(session: ort.InferenceSession, feed: dict[str, npt.NDArray[Any]], file: str) -> list[npt.NDArray[Any]]:
    """Return the outputs of one run, in the order of the file's outputs. Raises LatencyError: the feed fails."""
    try:
        return list(session.run(None, feed))
    except Exception as error:  # the runtime's exceptions share no base class but Exception
        raise LatencyError(f"a session must run its feed, but got: {first_line(error)} at {file}") from error


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """Sessions of ONNX Runtime on the CPU provider; implements `Runtime`."""

    @property
    def name(self) -> str:
        """The name of the package."""
        return "onnxruntime"

    def open(self, path: Path, settings: SessionSettings, *, beside_others: bool = False) -> OpenFile:
        """Return a file in a new session; see `open_session`."""
        session = open_session(path, settings, beside_others=beside_others)
        inputs = tuple((node.name, tuple(node.shape)) for node in session.get_inputs())
        return OpenFile(inputs, lambda feed: run_session(session, feed if isinstance(feed, dict) else dict(feed), path.name))

    def conditions(self, settings: SessionSettings) -> dict[str, Any]:
        """Return what a figure measured under these settings stands for: `threads`, `pinned` cores, and all of `session`."""
        options = {"batch": 1, "inter_op": settings.inter_op, "providers": list(PROVIDERS), "graph_optimisation": "all"}
        return {"threads": settings.threads, "pinned": list(settings.cores), "session": options}


ONNX_RUNTIME = OnnxRuntime()
