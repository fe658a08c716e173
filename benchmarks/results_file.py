"""The format that every benchmark writes: benchmarks/results/NAME.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from paretopress.system.atomic_files import write_json
from paretopress.targets.environment import environment

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure with the bar it was to reach; `met` is None where there is no bar."""

    name: str
    value: float | None
    unit: str
    bar: float | None = None
    met: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "unit": self.unit, "bar": self.bar, "met": self.met}


def recorded_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of benchmarks/results/NAME.json, none if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def write_result(name: str, headlines: Sequence[Headline], rows: Sequence[Mapping[str, Any]], *, threads: int = 1, **more: Any) -> Path:
    """Write benchmarks/results/NAME.json and print the headlines."""
    path = RESULTS / f"{name}.json"
    typed = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    value = {
        "schema": 1,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *typed]),
        "date": date.today().isoformat(),
        "environment": environment() | {"threads": threads},
        "headlines": [headline.to_json() for headline in headlines],
        **more,
        "rows": list(rows),
    }
    write_json(path, value)
    for headline in headlines:
        verdict = {True: "met", False: "missed", None: "not decided"}[headline.met]
        bar = "" if headline.bar is None else f"  (bar {headline.bar:g}: {verdict})"
        print(f"{headline.name}: {headline.value} {headline.unit}{bar}")
    return path
