"""A run whose workers share a PostgreSQL database and a folder, typed as their users type it."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from paretopress.run_folder import RunFolder
from paretopress.run_study import study_place
from paretopress.search.places import StudyPlace, open_storage

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))

SHARED = """
schema = 1
model = "user.py:make"
data = "user.py:data"
[budget]
speedup = 1.05
[time]
trials = {trials}
finalists = 2
stop_early = false
[recovery]
learning_rate = 0.01
short_steps = {steps}
final_steps = 2
batch_size = 32
[target]
probe = false
[space]
channel_step = 16
[disk]
cache_mb = 0
[workers]
grace_s = 4
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of this test on a free port of the loopback; yields its URL."""
    assert SERVERS, "these tests need a PostgreSQL server: apt-get install postgresql"
    folder = Path(tmp_path_factory.mktemp("postgres"))
    owner = {"user": "postgres"} if os.getuid() == 0 else {}  # the server refuses to be root
    if owner:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        for above in folder.parents:
            if above.stat().st_uid == 0 and above != Path("/") and above != Path("/tmp"):
                above.chmod(above.stat().st_mode | 0o011)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries = SERVERS[-1].parent
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "-U", "press", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **owner)  # type: ignore[call-overload]
    options = ["-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([binaries / "postgres", *options], cwd=folder, stdout=log, stderr=log, **owner)  # type: ignore[call-overload]
    try:
        ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 60.0
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql+psycopg://press@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30.0)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "paretopress", *map(str, arguments)]


def started(where: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def shared(where: Path, database: str, *, trials: int, steps: int = 1) -> tuple[subprocess.Popen[str], str]:
    """Start a shared search; return it and the URL that others join with."""
    (where / "shared.toml").write_text(SHARED.format(trials=trials, steps=steps))
    search = started(where, "search", "shared.toml", "--run", "run", "--storage", database, "--artifacts", where / "artifacts")
    assert search.stdout is not None
    said = []
    for line in search.stdout:
        said.append(line)
        if "others join with" in line:
            return search, line.split("'")[1]
    raise AssertionError("".join(said))


def elsewhere(workplace: Path) -> Path:
    """Return another folder with the same model and data, as another host has them."""
    other = workplace / "elsewhere"
    other.mkdir()
    shutil.copy(workplace / "user.py", other / "user.py")
    return other


def trials_of(workplace: Path) -> list[FrozenTrial]:
    """Return the trials of the run, and leave no connection open."""
    place = study_place(RunFolder(workplace / "run"))
    assert isinstance(place, StudyPlace)
    storage = open_storage(place)
    assert isinstance(storage, RDBStorage)
    try:
        return optuna.load_study(study_name=place.name, storage=storage).get_trials()
    finally:
        storage.engine.dispose()


def workers(workplace: Path) -> dict[str, int]:
    """Return worker -> number of trials of the run."""
    counts: dict[str, int] = {}
    for trial in trials_of(workplace):
        if "worker" in trial.user_attrs:
            counts[trial.user_attrs["worker"]] = counts.get(trial.user_attrs["worker"], 0) + 1
    return counts


def test_workers_share_a_run_when_they_join_it(workplace: Path, database: str) -> None:
    search, url = shared(workplace, database, trials=14)
    other = elsewhere(workplace)
    worker = started(other, "worker", url, "--model", "user.py:make", "--data", "user.py:data")
    said = worker.communicate(timeout=300)[0]
    told = search.communicate(timeout=300)[0]
    assert (search.returncode, worker.returncode) == (0, 0), f"{told}\n{said}"
    assert len(workers(workplace)) == 2
    folder = RunFolder(workplace / "run")
    front = json.loads(folder.front.read_text())
    assert sum(front["trials"].values()) in (14, 15)
    assert front["trials"]["failed"] == 0
    for point in front["points"]:
        content = (folder.root / point["onnx"]["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == point["onnx"]["sha256"]
    status = subprocess.run(command("status", "run", "--json"), cwd=workplace, capture_output=True, text=True, check=True)
    assert json.loads(status.stdout)["phase"] == "finished"


def test_worker_is_refused_with_the_difference_when_its_model_is_another(workplace: Path, database: str) -> None:
    search, url = shared(workplace, database, trials=3)
    other = elsewhere(workplace)
    text = (other / "user.py").read_text()
    (other / "user.py").write_text(text.replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    worker = subprocess.run(
        command("worker", url, "--model", "user.py:make", "--data", "user.py:data"), cwd=other, capture_output=True, text=True, check=False
    )
    told = search.communicate(timeout=300)[0]
    assert search.returncode == 0, told
    assert worker.returncode == 2
    assert "weights: " in worker.stderr
    assert "data: " not in worker.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_workers_trial_goes_to_another_when_it_leaves_or_dies(workplace: Path, database: str, how: signal.Signals) -> None:
    search, url = shared(workplace, database, trials=12, steps=60)
    worker = started(workplace, "worker", url)
    deadline = time.monotonic() + 120.0
    while len(workers(workplace)) < 2:
        assert search.poll() is None, "the search ended before the worker had a trial"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    worker.send_signal(how)
    worker.communicate(timeout=30.0)
    assert worker.returncode == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    told = search.communicate(timeout=300)[0]
    assert search.returncode == 0, told
    trials = trials_of(workplace)
    retried = [t for t in trials if "retry_of" in t.user_attrs]
    assert [t.state.name for t in retried] == ["COMPLETE"]
    assert len([t for t in trials if t.state.name == "COMPLETE"]) == 12
    assert not [t for t in trials if t.state.name == "RUNNING"]


def test_search_says_what_is_missing_when_the_storage_is_out_of_reach(workplace: Path) -> None:
    (workplace / "shared.toml").write_text(SHARED.format(trials=2, steps=1))
    for options, says in (
        (["--storage", "postgresql+psycopg://press@127.0.0.1:9/none", "--artifacts", "artifacts"], "in reach"),
        (["--storage", "postgresql+psycopg://press@127.0.0.1:9/none"], "--artifacts"),
    ):
        done = subprocess.run(
            command("search", "shared.toml", "--run", "run", *options), cwd=workplace, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert says in done.stderr
        assert not (workplace / "run").exists()
