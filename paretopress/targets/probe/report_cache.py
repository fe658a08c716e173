"""Probe reports of earlier probes, one file per fingerprint in the user's cache folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretopress.errors import RunError, first_line
from paretopress.system.atomic_files import write_json
from paretopress.system.disk_cache import cache_root
from paretopress.targets.probe.probe_report import ProbeReport, fingerprint_digest

_LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of the reports."""
    return cache_root() / "probes"


def read_report(fingerprint: Mapping[str, Any]) -> ProbeReport | None:
    """Return the report with that fingerprint; None if there is none, or its file is damaged, which a new probe replaces."""
    try:
        report = ProbeReport.from_json(_path(fingerprint).read_bytes())
    except OSError:
        return None
    except ValueError as error:
        _LOG.warning("the probe at %s is damaged or another version's, and is made again: %s", _path(fingerprint), first_line(error))
        return None
    return report if report.fingerprint == fingerprint else None


def write_report(report: ProbeReport) -> Path:
    """Keep a report for its fingerprint, and return its file; raises RunError if it cannot be written."""
    path = _path(report.fingerprint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the cache folder must be writable, but got {error.strerror} at {path.parent}", "Set XDG_CACHE_HOME.") from error
    write_json(path, report.to_json())
    return path


def _path(fingerprint: Mapping[str, Any]) -> Path:
    return cache_folder() / f"{fingerprint_digest(fingerprint)}.json"
