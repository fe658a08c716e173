"""The bytes between host and agent."""

from __future__ import annotations

import io

import numpy as np
import pytest

from paretopress.targets.wire_protocol import pack_arrays, read_frame, unpack_arrays, write_frame


def written(*frames: tuple[dict[str, object], bytes]) -> bytes:
    stream = io.BytesIO()
    for frame in frames:
        write_frame(stream.write, *frame)
    return stream.getvalue()


def test_read_frame_returns_what_was_written_when_several_follow() -> None:
    frames = [({"command": "put"}, b"\n{}\x00"), ({"name": "größe", "seed": 2**62}, b"")]
    stream = io.BytesIO(written(*frames))
    assert [read_frame(stream), read_frame(stream), read_frame(stream)] == [*frames, None]


def test_read_frame_returns_none_when_the_stream_ends_anywhere_inside() -> None:
    whole = written(({"a": 1}, b"payload"))
    assert all(read_frame(io.BytesIO(whole[:length])) is None for length in range(len(whole)))


def test_read_frame_passes_over_greetings_when_a_shell_prints_some() -> None:
    assert read_frame(io.BytesIO(b"Welcome to the board\n\n" + written(({"a": 1}, b"x")))) == ({"a": 1}, b"x")


def test_unpack_arrays_returns_what_was_packed_when_of_any_type() -> None:
    arrays = [np.ones((2, 3), np.float32), np.array(7, np.int64), np.zeros((0, 4), np.uint8)]
    unpacked = unpack_arrays(pack_arrays(arrays))
    assert [(a.dtype, a.tolist()) for a in unpacked] == [(a.dtype, a.tolist()) for a in arrays]


def test_unpack_arrays_refuses_when_there_is_a_pickle() -> None:
    with pytest.raises(ValueError, match="must hold numbers"):
        unpack_arrays(pack_arrays([np.array([object()])]))
