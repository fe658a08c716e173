"""How the host and its agent talk: a line of JSON, then as many bytes as the line announces. Arrays travel as .npz, never as pickles."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Frame = tuple[dict[str, Any], bytes]

_SIZE = "payload_bytes"


def write_frame(write: Callable[[bytes], object], head: Mapping[str, Any], payload: bytes = b"") -> None:
    """Hand a head of JSON values and its payload to `write`, which must take all of what it is given."""
    write(json.dumps({**head, _SIZE: len(payload)}).encode() + b"\n" + payload)


def read_frame(stream: BinaryIO) -> Frame | None:
    """Return the next (head, payload), or None where the stream ends, be it in the middle of a frame.

    Lines before it that are no JSON object are passed over: a login shell may greet.
    """
    line = stream.readline()
    while line and not line.startswith(b"{"):
        line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    head: dict[str, Any] = json.loads(line)
    size = head.pop(_SIZE)
    payload = stream.read(size)
    return (head, payload) if len(payload) == size else None


def pack_arrays(arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    """Return arrays of numbers as the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def unpack_arrays(data: bytes) -> list[npt.NDArray[Any]]:
    """Return what `pack_arrays` packed; raises ValueError where that would need a pickle."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
