"""Size and identity of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK_BYTES = 1 << 20


def file_facts(path: Path) -> tuple[int, str]:
    """Return (size_bytes, sha256 in hex) of one pass over the file, so that both describe the same bytes.

    Raises: OSError: the file cannot be read.
    """
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()
