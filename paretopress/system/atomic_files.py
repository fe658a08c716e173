"""Files that are either whole or absent: written under a temporary name in the same folder, synced to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any

from paretopress.errors import RunError

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing a file of that name in one step.

    Raises: RunError: the disk is full, or the folder is missing or read-only.
    Invariant: `path` holds its old content or all of the new, never a part, and no temporary file is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        # open() and not tempfile: the latter's files are readable by their owner alone, and the rename would keep that
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} must be writable, but got {error.strerror or error}", _hint(error, path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8; raises and keeps what `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` to `path` as indented JSON.

    Raises: RunError: as `write_bytes`, or `obj` holds NaN or an infinity, which JSON readers refuse.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RunError(f"JSON numbers must be finite, but got {error} for {path}") from error
    write_text(path, text + "\n")


def _hint(error: OSError, path: Path) -> str:
    if error.errno in FULL_DISK:
        return f"The disk that holds {path.parent} is full: free some space and repeat the command; nothing was half-written"
    return f"Check that the folder {path.parent} exists and that you may write to it"
