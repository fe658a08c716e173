"""Size and identity of a file."""

from __future__ import annotations

from paretopress.targets.file_facts import file_facts

__all__ = ["file_facts"]
