"""The same search on `local` and on `ssh://` over loopback: do the intervals of the same plans agree?

    python benchmarks/latency_ssh.py

Two searches of the CIFAR-10 (JPEG) ResNet-20 with the same seed and 20 trials, without training: the plans are the same, the figures are
measured in this process and by an agent behind an SSH server of our own. About 3 minutes on an idle machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from loopback_sshd import loopback_target
from results_file import Headline, write_result

from paretopress.api import start_run
from paretopress.config import parse_config, read_config
from paretopress.core.outcome import Latency
from paretopress.core.plan import Plan
from paretopress.report.live import SilentReporter
from paretopress.search.storage.records import Records
from paretopress.search.storage.studies import open_study
from paretopress.system.run_folder import RunFolder

CONFIG = Path(__file__).resolve().parent.parent / "runs" / "cifar10_resnet20.toml"
TRIALS = 20


def searched(target: str, run: Path) -> dict[Plan, Latency]:
    """Return plan -> pooled latency of a search on a target."""
    config = read_config(CONFIG).to_json() | {
        "budget": {"speedup": 1.01},
        "time": {"trials": TRIALS, "finalists": 0},
        "recovery": {"short_steps": 0, "final_steps": 0},
        "target": {"spec": target, "probe": False},
        "disk": {"cache_mb": 0},
    }
    start_run(parse_config(config, str(CONFIG)), run, SilentReporter())
    return {c.plan: c.outcome.latency for c in Records(open_study(RunFolder(run).journal)).candidates()}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with loopback_target(folder) as target:
            found = {"local": searched("local", folder / "local"), "ssh": searched(target, folder / "ssh")}
    rows = []
    for plan in found["local"].keys() & found["ssh"].keys():
        here, there = found["local"][plan], found["ssh"][plan]
        agree = here.ratio_ci[0] <= there.ratio_ci[1] and there.ratio_ci[0] <= here.ratio_ci[1]
        rows.append(
            {
                "plan": plan.to_json(),
                "local": here.ratio,
                "local_ci": list(here.ratio_ci),
                "ssh": there.ratio,
                "ssh_ci": list(there.ratio_ci),
                "agree": agree,
            }
        )
    rows.sort(key=lambda row: row["local"])
    share = float(np.mean([row["agree"] for row in rows]))
    difference = float(np.median([abs(row["ssh"] / row["local"] - 1.0) for row in rows]))
    headlines = [
        Headline("plans that both searches measured", len(rows), ""),
        Headline("plans whose intervals agree", round(100 * share, 1), "%", 90.0, share >= 0.9),
        Headline("median difference of the ratio", round(100 * difference, 2), "%"),
    ]
    write_result("latency_ssh", headlines, rows)


if __name__ == "__main__":
    main()
