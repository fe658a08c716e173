from __future__ import annotations

from pathlib import Path

import optuna

from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.run.retention import drop_dominated, folder_bytes
from paretopress.search.candidates import Bounds
from paretopress.search.storage import records as keys
from paretopress.search.storage.records import Records
from paretopress.system.run_folder import RunFolder

BOUNDS = Bounds(Budget(speedup=1.0), 10.0, 90.0)


def outcome(accuracy: float, ms: float, rung: Rung = Rung.SHORT) -> Outcome:
    latency = Latency(ms, (ms, ms), ms / 10.0, (ms / 10.0, ms / 10.0), ms, ms, 10.0, 8, 100, 0.1)
    return Outcome(rung, accuracy, int(ms * 100), 10, latency, 1_000, "model.onnx", f"{ms:064.2f}")


def studied(folder: RunFolder, figures: list[tuple[float, float]]) -> Records:
    """Return the records of trials with these accuracies and latencies, each with a kilobyte in its folder."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for number, (accuracy, ms) in enumerate(figures):
        trial = study.ask()
        trial.set_user_attr(keys.PLAN, Plan(kept={"a": number + 1}).to_json())
        trial.set_user_attr(keys.OUTCOME, outcome(accuracy, ms).to_json())
        study.tell(trial, [accuracy, ms * 100, ms])
        place = folder.candidate(number, final=False)
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes(b"x" * 1_000)
    return Records(study)


def test_drop_dominated_keeps_the_front_when_the_disk_is_bounded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    # 0 and 3 are the front; 2 is the best of the rest, which the next finalist comes from once these have been
    records = studied(folder, [(89.0, 5.0), (80.0, 6.0), (88.0, 5.5), (85.0, 4.0), (70.0, 7.0)])
    assert drop_dominated(folder, records, BOUNDS, 5_000) == []
    assert drop_dominated(folder, records, BOUNDS, 4_000) == [1]
    assert drop_dominated(folder, records, BOUNDS, 0) == [2, 4]
    assert sorted(place.name for place in (tmp_path / "trials").iterdir()) == ["0000", "0003"]
    assert len(records.trial_candidates()) == 5
    assert folder_bytes(tmp_path / "trials") == 2_000


def test_drop_dominated_keeps_what_the_next_finalist_comes_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    records = studied(folder, [(89.0, 5.0), (80.0, 6.0), (88.0, 5.5), (85.0, 4.0), (70.0, 7.0)])
    for number, (accuracy, ms) in ((0, (89.5, 5.0)), (3, (86.0, 4.0))):
        records.add_final(number, outcome(accuracy, ms, Rung.FINAL).to_json())
    assert drop_dominated(folder, records, BOUNDS, 0) == [1, 4]


def test_drop_dominated_keeps_what_is_astride_the_budget(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    # half of the baseline's 10 ms are allowed; 1 is dominated, but its interval holds the 5 ms: it is measured again
    records = studied(folder, [(89.0, 4.0), (80.0, 4.9), (70.0, 4.2), (95.0, 9.0)])
    assert drop_dominated(folder, records, Bounds(Budget(speedup=2.0), 10.0, 90.0), 0) == [2, 3]


def test_drop_dominated_keeps_the_trial_of_a_finalist_astride_the_budget(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    records = studied(folder, [(89.0, 4.0), (80.0, 4.2)])
    records.add_final(1, outcome(85.0, 4.9, Rung.FINAL).to_json())
    assert drop_dominated(folder, records, Bounds(Budget(speedup=2.0), 10.0, 90.0), 0) == []
