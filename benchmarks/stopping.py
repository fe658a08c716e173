"""What it costs to end a search when its front has stopped growing, and how far off the prediction of the rest is.

    python benchmarks/stopping.py runs/night runs/search_hour runs/search_hour_mobilenet_v2_050

Takes runs that used all their time (benchmarks/night.py and search_hour.py leave these). The rule is applied to the growth of each one's
hypervolume as it would have been after every trial: as it is, and with other limits on what the trials that are left are predicted to add.
Writes results/stopping.json, with the curves. Trials are counted, not their time; the finalists of a run are not part of it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from results_file import Headline, write_result

from paretopress.run.lookup import stored_config, study_place
from paretopress.run.state import RunState
from paretopress.search.early_stopping import LEAST_GAIN, early_stop
from paretopress.search.storage.records import Records
from paretopress.search.storage.studies import open_study
from paretopress.system.run_folder import RunFolder

# the first is the rule without its second half
LIMITS = (math.inf, 0.05, 0.02, 0.01, 0.005)


def row_of(run: str, curve: list[float], least_gain: float) -> dict[str, object]:
    """Return when a search with this curve ends with one limit, and what it gives up; shares in percent."""
    counts = range(1, len(curve))
    stop = next((found for n in counts if (found := early_stop(curve[:n], len(curve) - n, least_gain)) is not None), None)
    row = {"run": run, "least_gain": None if math.isinf(least_gain) else 100.0 * least_gain, "trials": len(curve)}
    if stop is None:
        return row | {"ended_at": None, "predicted": None, "given_up": 0.0}
    given_up = curve[-1] / curve[stop.trials - 1] - 1.0
    return row | {"ended_at": stop.trials, "predicted": 100.0 * stop.predicted_gain, "given_up": 100.0 * given_up}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    rows, curves, lines = [], {}, []
    for run in parser.parse_args().runs:
        folder = RunFolder(run)
        config = stored_config(folder)
        bounds = RunState.from_json(folder.read(folder.state)).bounds(config)
        volumes = Records(open_study(study_place(folder, config))).volumes(bounds)
        curve = curves[run.name] = [round(float(volume), 4) for volume in np.maximum.accumulate(volumes)]
        rows += [row_of(run.name, curve, limit) for limit in LIMITS]
        for row in rows[-len(LIMITS) :]:
            if row["least_gain"] in (None, 100.0 * LEAST_GAIN):
                rule = "growth alone" if row["least_gain"] is None else "growth and prediction"
                at = f"ends at {row['ended_at']}" if row["ended_at"] else "runs to its end"
                name = f"{run.name}, {len(curve)} trials, by {rule}: {at} and gives up"
                lines.append(Headline(name, round(row["given_up"], 2), "% of the hypervolume"))
    write_result("stopping", lines, rows, curves=curves)


if __name__ == "__main__":
    main()
