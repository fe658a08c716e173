"""Work that is done again and again beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(action: Callable[[], object], every_s: float) -> Iterator[None]:
    """Carry out `action` every so many seconds within the block, from a thread of its own; the block's end waits for one under way."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(every_s):
            action()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
