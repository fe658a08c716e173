"""Paths from untrusted names (database, artifact store, bundle, device), confined to their folder."""

from __future__ import annotations

import re
from pathlib import Path

from paretopress.errors import OutsideFolderError

_LONGEST = 1_024
# what Windows reads as a device, whatever follows the dot
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def confined_path(root: Path, name: object) -> Path:
    """Return the path of `name` below the folder `root`.

    Refused are absolute paths, `..`, empty parts, backslashes, drives and device names of Windows, control characters, and links that lead
    out of the folder.
    Raises: OutsideFolderError: the name leads elsewhere, or is none.
    """
    if not isinstance(name, str) or not is_plain(name):
        raise OutsideFolderError(f"a file must be named by a relative path inside its folder, but got {str(name)[:_LONGEST]!r}")
    path = root / name
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, or a name too long for the system
        raise OutsideFolderError(f"a file must be named by a path that can be followed, but got {error} at {name!r}") from error
    if not inside:
        raise OutsideFolderError(f"a file must lie in its folder, but {name!r} leads to {path.resolve()}")
    return path


def flat_name(name: object) -> str:
    """Return `name`, a file's name that names no folder; raises OutsideFolderError for anything else."""
    if not isinstance(name, str) or not is_plain(name) or "/" in name:
        raise OutsideFolderError(f"a file must be named without folders, but got {str(name)[:_LONGEST]!r}")
    return name


def is_plain(name: object) -> bool:
    """Return whether a name is a relative path, of any system's, without a step upwards; links are not looked at."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST or not name.isprintable() or set(name) & set("\\:"):
        return False  # ":" is of a drive, or of an NTFS stream
    return not any(part in ("", ".", "..") or part[-1] in ". " or _DEVICE.match(part) for part in name.split("/"))
