"""Repeat an action from a background thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG = logging.getLogger(__name__)


@contextmanager
def periodically(action: Callable[[], object], every_s: float) -> Iterator[None]:
    """Carry out `action` every so many seconds within the block, from a thread of its own; the block's end waits for one under way.

    One that fails is said in the log, and the next follows all the same: a storage that is out of reach for a moment must not silence a
    worker for good.
    """
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(every_s):
            try:
                action()
            except Exception as error:
                _LOG.warning("what is done every %g s failed, and is done again then: %s: %s", every_s, type(error).__name__, error)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
