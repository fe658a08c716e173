"""What a trial of the CIFAR-10 (JPEG) ResNet-20 costs, by stage.

    python benchmarks/trial_cost.py [--trials 16]

Runs trials as a search would, with one step of training each; every stage but training and accuracy does not depend on the number of
steps. About 2 minutes on two cores, with nothing else running.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import optuna
from results_file import Headline, write_result

from paretopress.api import start_run
from paretopress.config import parse_config, read_config
from paretopress.report.live import SilentReporter
from paretopress.search.storage.studies import open_study

CONFIG = Path(__file__).resolve().parent.parent / "runs" / "cifar10_resnet20.toml"
TRAINED = ("recover", "accuracy")
BAR_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = read_config(CONFIG).to_json()
    config["time"] = {"trials": args.trials, "finalists": 0}
    config["budget"] = {"speedup": 1.2}
    config["recovery"] = {"learning_rate": 0.03, "short_steps": 1, "final_steps": 1}
    config["disk"] = {"cache_mb": 0}
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        run = Path(folder, "run")
        start_run(parse_config(config, str(CONFIG)), run, SilentReporter())
        outcomes = [
            t.user_attrs["outcome"] for t in open_study(run / "journal.log").get_trials(deepcopy=False) if "outcome" in t.user_attrs
        ]
    trained = [o["stages_s"] for o in outcomes if not o["rejected"]]
    rejected = [o["stages_s"] for o in outcomes if o["rejected"]]

    def rest(stages: dict[str, float]) -> float:
        return sum(seconds for name, seconds in stages.items() if name not in TRAINED)

    whole = round(median(map(rest, trained)), 3)
    stages = sorted({name for o in trained for name in o})
    rows = [{"stage": name, "median_s": round(median(o.get(name, 0.0) for o in trained), 3)} for name in stages]
    write_result(
        "trial_cost",
        [
            Headline("a trial, all but training and accuracy, median", whole, "s", BAR_S, whole <= BAR_S),
            Headline("the slowest of the trials", round(max(map(rest, trained)), 3), "s"),
            Headline("a plan rejected before training, whole, median", round(median(sum(o.values()) for o in rejected), 3), "s")
            if rejected
            else Headline("plans rejected before training", 0, ""),
        ],
        rows,
        trained=len(trained),
        rejected=len(rejected),
    )


if __name__ == "__main__":
    main()
