"""Read what is needed soon in processes of their own, so that reading and computing go on at the same time."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Read = TypeVar("Read")
# read by a process before it is asked for; processes at most
_AHEAD, _MOST_PROCESSES = 2, 4
_PATIENCE_S = 300.0  # with one reading
# what is read comes through here, and may take half of what is free
_SHARED_MEMORY, _SHARED_SHARE = Path("/dev/shm"), 0.5


class _Numbered(Dataset[Any], Generic[Read]):
    """What is read for each of some keys, or the error that reading raised."""

    def __init__(self, read: Callable[[Any], Read], keys: Sequence[Any], around: Callable[[], AbstractContextManager[None]]) -> None:
        self.read, self.keys, self.around = read, keys, around

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> tuple[Read | None, Exception | None]:
        try:
            with self.around():
                return self.read(self.keys[place]), None
        except Exception as error:  # the loader would put a traceback of its own in place of the message
            return None, error


def processes_to_read(item_bytes: int) -> int:
    """Return how many processes can read ahead what has so many bytes: as many as threads compute, 0 where it cannot be done.

    They are forked, as a data set of the user's need not be picklable; macOS's own libraries do not survive that.
    """
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin" or (os.cpu_count() or 1) < 2:
        return 0
    try:
        room_bytes = _SHARED_SHARE * shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return 0
    return min(torch.get_num_threads(), _MOST_PROCESSES, int(room_bytes // ((_AHEAD + 1) * max(item_bytes, 1))))


@contextmanager
def read_ahead(
    read: Callable[[Any], Read], keys: Sequence[Any], processes: int, around: Callable[[], AbstractContextManager[None]]
) -> Iterator[Iterator[Read]]:
    """Yield an iterator over what `read` returns for each key, in their order, from processes that end with the block.

    Args:
        read: returns tensors, or tuples of them. around: is entered for each reading: it can be made to wait while something is measured.
    The iterator raises what `read` raised, and RuntimeError if a process died or hung. The random generators here are left as they were.
    """
    loader = DataLoader(
        _Numbered(read, keys, around),
        batch_size=None,
        num_workers=processes,
        prefetch_factor=_AHEAD,
        timeout=_PATIENCE_S,
        collate_fn=_as_it_is,
        multiprocessing_context="fork",
        generator=torch.Generator(),
    )
    # a thread may be reading standard input: a process that is forked meanwhile closes it, and would wait for its lock for ever
    stdin, sys.stdin = sys.stdin, None
    try:
        loading: Any = iter(loader)
    finally:
        sys.stdin = stdin
    try:
        yield map(_read_or_raised, loading)
    finally:
        loading._shutdown_workers()  # torch's own loops call it, too: else processes go on reading until they are collected


def _as_it_is(value: Any) -> Any:
    return value


def _read_or_raised(found: tuple[Any, Exception | None]) -> Any:
    value, error = found
    if error is not None:
        raise error
    return value
