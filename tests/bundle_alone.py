"""A bundle run in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the bundle's run.py with -I: no PYTHON* variables, no user site, and not from this checkout."""
    command = [sys.executable, "-I", str(folder / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, timeout=300, check=False)
