"""Raise the level of a library's logger for the length of a block."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_logger(name: str | None, level: int) -> Iterator[None]:
    """Let a logger (None: the root logger) pass records from `level` on, and put its level back afterwards."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
