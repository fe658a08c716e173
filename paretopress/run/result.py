"""The result of a finished run: its points, and their export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from paretopress.deploy.select import export_point, select_point
from paretopress.errors import ConfigError
from paretopress.report.point import Point
from paretopress.system.run_folder import RunFolder, open_run_folder


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run; `front` is the object of front.json."""

    run: Path
    front: Mapping[str, Any]

    @property
    def points(self) -> tuple[Point, ...]:
        """The points within every bound of the budget, fastest first."""
        return tuple(map(Point.from_json, self.front["points"]))

    @property
    def nearest(self) -> tuple[Point, ...]:
        """Where no point is within every bound: those that miss the bounds by least, nearest first."""
        return tuple(map(Point.from_json, self.front.get("nearest", ())))

    @property
    def baseline(self) -> Point:
        """The unchanged model."""
        return Point.from_json(self.front["baseline"])

    def best(self) -> Point:
        """Return the point to ship; raises SearchFailedError if no plan met the budget."""
        return Point.from_json(select_point(self.front, trial=self.front["best"]))

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with a row per point, its fields as columns; raises ConfigError where pandas is not installed."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise ConfigError("a data frame needs pandas, but it is not installed", "pip install pandas.") from error
        rows = [{field.name: getattr(point, field.name) for field in fields(Point)} for point in self.points]
        return pandas.DataFrame(rows, columns=[field.name for field in fields(Point)])

    def export(self, to: str | Path, *, trial: int | None = None, latency_ms: float | None = None) -> Path:
        """Write the bundle of the best point, of a trial, or of the most accurate point within `latency_ms`; return its folder."""
        return export_point(RunFolder(self.run), self.front, Path(to), trial=trial, latency_ms=latency_ms)


def open_result(run: Path) -> Result:
    """Return the result of a finished run; raises RunFolderError if it has none yet."""
    folder = open_run_folder(run)
    return Result(run, folder.read(folder.front))
