"""What is said where a process has something else than a run was started with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paretopress.errors import RunFolderError
from paretopress.run.compatibility import FORMAT, demand_same, differences, versions

RUN: dict[str, Any] = {
    "format": FORMAT,
    "code": "a" * 16,
    "model code": "0" * 64,
    "data items": "1" * 64 + " (4096 of 9000 items of train read)",
    "versions": {"torch": "2.9.1", "onnxruntime": "1.31.0"},
    "settings": {"seed": 0, "budget": {"speedup": 2.0}},
    "target": {"cpu": "A", "cores_allowed": [0, 1]},
}


def test_demand_same_returns_when_all_is_the_same_after_json() -> None:
    ours = {**RUN, "target": {"cpu": "A", "cores_allowed": (0, 1)}}
    demand_same(json.loads(json.dumps(RUN)), ours, "a worker")
    assert differences(json.loads(json.dumps(RUN)), ours) == {}


def test_demand_same_compares_only_the_parts_that_are_handed_over() -> None:
    ours = {"format": FORMAT, "code": "a" * 16}
    demand_same(RUN, ours, "a worker")
    assert differences(RUN, ours) == {}


@pytest.mark.parametrize(
    ("ours", "says", "does"),
    [
        ({"model code": "2" * 64}, "model code (000000000000... there, 222222222222... here)", "Hand over what the run was started with"),
        ({"data items": "3" * 64}, "data items (111111111111... (4096 of 9000 items of train read) there", "Hand over"),
        ({"versions": {"torch": "2.10.0", "onnxruntime": "1.31.0"}}, "versions: torch (2.9.1 there, 2.10.0 here)", "Install the versions"),
        ({"versions": {"onnxruntime": "1.31.0"}}, "versions: torch (2.9.1 there, null here)", "Install the versions"),
        ({"settings": {"seed": 0, "budget": {"speedup": 3.0}}}, "settings: budget: speedup (2.0 there, 3.0 here)", "Restore config.json"),
        ({"target": {"cpu": "A", "cores_allowed": [0]}}, "target: cores_allowed ([0, 1] there, [0] here)", "Measure on the machine"),
        ({"target": {"cpu": "A", "cores_allowed": [0, 1], "x": 1}}, "target: x (null there, 1 here)", "Measure on the machine"),
        ({"code": "b" * 16}, f"code ({'a' * 16} there, {'b' * 16} here)", "version of paretopress"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_demand_same_names_part_and_remedy_when_one_differs(ours: dict[str, Any], says: str, does: str) -> None:
    with pytest.raises(RunFolderError) as caught:
        demand_same(RUN, RUN | ours, "a resumed run")
    assert f"a resumed run must have what the run was started with, but got another {says}" in caught.value.message
    assert does in caught.value.hint
    assert len(differences(RUN, RUN | ours)) == 1


def test_demand_same_says_that_the_format_changed_when_the_run_is_older() -> None:
    for theirs in ({}, {"code": "a" * 16, "weights": "0" * 64}):
        with pytest.raises(RunFolderError, match=r"format=1 instead of 2.*paretopress export"):
            demand_same(theirs, RUN, "a resumed run")


def test_versions_are_those_of_what_computes() -> None:
    found = versions()
    assert {"python", "torch", "onnxruntime", "numpy"} <= found.keys()
    assert all(found[name] for name in ("python", "torch", "onnxruntime"))
