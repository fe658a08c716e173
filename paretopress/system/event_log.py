"""One JSON line per event of a run, in log.jsonl: when, what, how long."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paretopress.system.secret_masking import masked


@dataclass(frozen=True, slots=True)
class EventLog:
    """Appends to one file. A line is written by one call, so lines of several threads and processes do not mix."""

    path: Path

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Append {"time", "event", "process", ...}. The log is for people: a disk that is full costs a line, not the run."""
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "process": os.getpid(),
            **masked_fields(fields),
        }
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)


def masked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields whose texts hold no password of a URL."""
    return {name: masked(value) if isinstance(value, str) else value for name, value in fields.items()}


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log, oldest first; a line that a full disk or a power loss cut off is passed over."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
