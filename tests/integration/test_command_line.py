"""The command line as a user types it, in processes of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typed import command, quick, typed, typed_here

_FORMATS = "dynamic = true\nfloat16 = true\n"


def test_search_leads_to_a_verified_bundle_when_all_goes_well(workplace: Path) -> None:
    done = typed(workplace, "search", quick(workplace / "quick.toml", trials=6, features=["3.conv1"], more=_FORMATS), "--run", "run")
    assert done.returncode == 0, done.stderr
    front = json.loads((workplace / "run/front.json").read_text())
    assert front["schema"] == 1
    assert sum(front["trials"].values()) == 6
    assert front["points"]
    for point in front["points"]:
        assert point["latency_ci_ms"][1] <= front["budget"]["limit_ms"]
        assert point["test_accuracy"] is not None
    assert (workplace / "run/front.png").stat().st_size > 10_000

    exported = typed(workplace, "export", "run", "--to", "bundle")
    assert exported.returncode == 0, exported.stderr
    manifest = json.loads((workplace / "bundle/manifest.json").read_text())
    shipped = {point["onnx"]["sha256"] for point in front["points"]}
    assert any(sha in json.dumps(manifest) for sha in shipped)
    assert typed(workplace, "verify", "bundle").returncode == 0
    assert subprocess.run([sys.executable, "bundle/run.py", "--check"], cwd=workplace, check=False).returncode == 0
    assert json.loads(typed_here(workplace, "front", "run", "--json").stdout) == front
    assert json.loads(typed_here(workplace, "status", "run", "--json").stdout)["phase"] == "finished"
    again = typed_here(workplace, "export", "run", "--to", "bundle")
    assert again.returncode == 2
    assert "Traceback" not in again.stderr


def test_search_shows_the_nearest_and_ships_one_by_its_trial(workplace: Path) -> None:
    # the targets are what the model puts out: whatever is faster is not as exact
    settings = quick(workplace / "quick.toml", trials=4, data="own_outputs", more='[metric]\nname = "R2"\n')
    settings.write_text(settings.read_text().replace("speedup = 1.05", "speedup = 1.05\nmax_drop = 0.0001"))
    done = typed(workplace, "search", settings, "--run", "run")
    assert done.returncode == 1
    assert "no model is within every bound; the nearest is trial" in " ".join(done.stderr.split())
    front = json.loads((workplace / "run/front.json").read_text())
    assert front["points"] == []
    assert front["best"] is None
    nearest = front["nearest"][0]
    assert nearest["within"] is False
    assert [miss["bound"] for miss in nearest["misses"]] == ["max_drop"]
    refused = typed_here(workplace, "export", "run", "--to", "bundle")
    assert refused.returncode == 1
    assert not (workplace / "bundle").exists()
    shipped = typed_here(workplace, "export", "run", "--to", "bundle", "--trial", str(nearest["trial"]))
    assert shipped.returncode == 0, shipped.stderr
    conditions = json.loads((workplace / "bundle/manifest.json").read_text())["conditions"]
    assert conditions["within_budget"] is False
    assert "more than the 0.0001 allowed" in conditions["missed_bounds"][0]
    assert "outside the budget" in (workplace / "bundle/README.md").read_text()


def test_search_says_what_is_near_when_a_feature_is_of_no_layer(workplace: Path) -> None:
    done = typed_here(workplace, "search", quick(workplace / "quick.toml", features=["3.conv9"]), "--run", "run")
    assert done.returncode == 2
    assert "'3.conv9'; near it are 3.conv" in " ".join(done.stderr.split())
    assert not (workplace / "run").exists()


def test_search_loses_one_trial_at_most_when_killed_and_resumed(workplace: Path, known_setup: None) -> None:
    run = workplace / "run"
    process = subprocess.Popen(
        command("search", quick(workplace / "quick.toml", trials=6, steps=3), "--run", run), cwd=workplace, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list((run / "trials").glob("0*"))) < 2:
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = json.loads(typed_here(workplace, "status", "run", "--json").stdout)
    finished = before["completed"] + before["rejected_early"]

    resumed = typed(workplace, "resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    after = json.loads(typed_here(workplace, "status", "run", "--json").stdout)
    assert after["failed"] <= 1
    assert after["completed"] + after["rejected_early"] == 6
    assert finished >= 2
    assert not list((run / "trials").glob(".*.part"))


def test_profile_shows_every_layer_when_asked(workplace: Path) -> None:
    done = typed(workplace, "profile", "--model", "user.py:make", "--data", "user.py:data", "--runs", 5)
    assert done.returncode == 0, done.stderr
    for layer in ("2.conv1", "3.conv2", "7"):
        assert layer in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model", "user.py:broken"], 2, "NaN"),
        (["--model", "user.py:untraceable"], 2, "must not depend on the values of its inputs"),
        (["--model", "user.py:recurrent"], 2, "GRU"),
        (["--model", "user.py:nothing"], 2, "nothing"),
        (["--model", "weights.pt"], 2, "--trust"),
        (["--data", "user.py:three_channels"], 2, "shape"),
        (["--data", "user.py:wrong_labels"], 2, "label"),
        (["--data", "user.py:nan_inputs"], 2, "train[0]"),
        (["--data", "user.py:empty_split"], 2, "val"),
        (["--speedup", "-2"], 2, "positive"),
        (["--speedup", "fast"], 2, "valid number"),
        (["--latency-ms", "1", "--speedup", "2"], 2, "exactly one"),
        (["--run", "."], 2, "exists"),
        (["--sampler", "grid"], 2, "guided"),
        (["--trials", "0"], 2, "trials"),
        (["--speedup", "1000", "--trials", "2"], 1, "fastest reached"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_search_says_what_is_wrong_on_one_screen_when_the_input_is_bad(workplace: Path, arguments: list[str], code: int, says: str) -> None:
    (workplace / "weights.pt").write_bytes(b"not read")
    given = {"--model": "user.py:make", "--data": "user.py:data", "--trials": "1", "--run": "run"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    if "--latency-ms" not in given:
        given.setdefault("--speedup", "1.1")
    done = typed_here(workplace, "search", "--no-probe", *(word for pair in given.items() for word in pair))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.splitlines()) < 20
    if code == 2:
        assert not (workplace / "run").exists()


def test_search_refuses_a_configuration_when_a_key_is_unknown(workplace: Path) -> None:
    path = quick(workplace / "quick.toml")
    path.write_text(path.read_text().replace("speedup = 1.05", "speedup = 1.05\nspeed = 3"))
    done = typed_here(workplace, "search", path, "--run", "run")
    assert done.returncode == 2
    assert "budget.speed" in done.stderr
