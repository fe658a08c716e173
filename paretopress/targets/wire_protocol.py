"""The wire protocol between host and agent: a line of JSON, then as many bytes as it announces. Arrays travel as .npz, never as pickles."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Frame = tuple[dict[str, Any], bytes]

_SIZE = "payload_bytes"
# what the other end may send: a head, lines before it, a payload (a model, or the arrays of a batch)
_LONGEST_HEAD, _LONGEST_GREETING, _MOST_PAYLOAD = 2**24, 2**20, 2**32
_MOST_ARRAYS = 1_024


def write_frame(write: Callable[[bytes], object], head: Mapping[str, Any], payload: bytes = b"") -> None:
    """Hand a head of JSON values and its payload to `write`, which must take all of what it is given."""
    write(json.dumps({**head, _SIZE: len(payload)}).encode() + b"\n" + payload)


def read_frame(stream: BinaryIO) -> Frame | None:
    """Return the next (head, payload), or None where the stream ends, be it in the middle of a frame.

    Lines before it that are no JSON object are passed over: a login shell may greet.
    Raises: ValueError: no JSON, or more than the bounds allow.
    """
    passed_over, line = 0, stream.readline(_LONGEST_HEAD)
    while line and not line.startswith(b"{"):
        passed_over += len(line)
        if passed_over > _LONGEST_GREETING:
            raise ValueError(f"more than {_LONGEST_GREETING} bytes that are no reply")
        line = stream.readline(_LONGEST_HEAD)
    if len(line) == _LONGEST_HEAD:
        raise ValueError(f"a head of {_LONGEST_HEAD} bytes or more")
    if not line.endswith(b"\n"):
        return None
    head: dict[str, Any] = json.loads(line)
    size = head.pop(_SIZE, None)
    if not isinstance(size, int) or not 0 <= size <= _MOST_PAYLOAD:
        raise ValueError(f"a payload of {size!r} bytes")
    payload = stream.read(size)
    return (head, payload) if len(payload) == size else None


def pack_arrays(arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    """Return arrays of numbers as the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def unpack_arrays(data: bytes) -> list[npt.NDArray[Any]]:
    """Return what `pack_arrays` packed.

    Raises: ValueError: other than arrays of numbers, as large as they say they are: no pickle, nothing compressed, which could unpack to
        far more.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                _check(archive, entry)
            count = len(archive.infolist())
        if count > _MOST_ARRAYS:
            raise ValueError(f"at most {_MOST_ARRAYS} arrays may come at once, but got {count}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return [arrays[f"arr_{i}"] for i in range(count)]
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"arrays must be packed as .npz, but got {type(error).__name__}: {error}") from error


def _check(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"arrays must be packed without compression, but got {entry.filename!r}")
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        said, size = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
    if dtype.kind not in "biuf" or said != size:
        raise ValueError(f"arrays must hold numbers, as many as their shape says, but got {dtype} of shape {shape} in {size} bytes")
