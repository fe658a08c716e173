"""A run whose workers share a PostgreSQL database and a folder or an S3 store, typed as their users type it."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from loopback import free_port
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from typed import command, quick, typed, typed_here

from paretopress.config import parse_config
from paretopress.distributed.ray_workers import LOCAL, demand_ray, workers_on_ray
from paretopress.errors import ConfigError
from paretopress.report.live import SilentReporter
from paretopress.run.lookup import study_place
from paretopress.search.storage.places import StudyPlace, open_storage
from paretopress.system.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("known_setup")

# what a dead worker holds is another's after four seconds
SHARED = "[workers]\ngrace_s = 4\n"


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def started(where: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def shared(where: Path, database: str, *, trials: int, steps: int = 1, artifacts: str | None = None) -> tuple[subprocess.Popen[str], str]:
    """Start a shared search; return it and the URL that others join with."""
    quick(where / "shared.toml", trials=trials, finalists=2, steps=steps, more=SHARED)
    search = started(where, "search", "shared.toml", "--run", "run", "--storage", database, "--artifacts", artifacts or where / "artifacts")
    assert search.stdout is not None
    said = []
    for line in search.stdout:
        said.append(line)
        if "others join with" in line:
            return search, line.split("'")[1]
    search.communicate()
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


def second_try_under_way(workplace: Path) -> bool:
    return any(t.state.name == "RUNNING" and "retry_of" in t.user_attrs for t in trials_of(workplace))


def test_workers_share_a_run_when_they_join_it(workplace: Path, database: str, bucket: str) -> None:
    search, url = shared(workplace, database.replace("press@", "press:hunter2@"), trials=10, artifacts=bucket)
    assert "press:***@" in url  # this server lets anybody in, whatever the password
    other = elsewhere(workplace)
    worker = started(other, "worker", url, "--model", "user.py:make", "--data", "user.py:data", "--artifacts", bucket)
    said = worker.communicate(timeout=300)[0]
    told = search.communicate(timeout=300)[0]
    assert (search.returncode, worker.returncode) == (0, 0), f"{told}\n{said}"
    assert len(workers(workplace)) == 2
    folder = RunFolder(workplace / "run")
    front = json.loads(folder.front.read_text())
    assert sum(front["trials"].values()) in (10, 11)
    assert front["trials"]["failed"] == 0
    for point in front["points"]:
        content = (folder.root / point["onnx"]["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == point["onnx"]["sha256"]
    status = typed(workplace, "status", "run", "--json")
    assert json.loads(status.stdout)["phase"] == "finished"
    told_to_others = [json.dumps(t.user_attrs) for t in trials_of(workplace)] + [said, told, status.stdout]
    assert not [text for text in told_to_others if "hunter2" in text]
    assert [path.name for path in folder.root.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()] == ["storage-url"]


def test_worker_is_refused_when_it_names_nothing_itself(workplace: Path, database: str) -> None:
    search, url = shared(workplace, database, trials=3)
    worker = typed(workplace, "worker", url, "--data", "user.py:data")
    told = search.communicate(timeout=300)[0]
    assert search.returncode == 0, told
    assert worker.returncode == 2
    assert "model='user.py:make'" in worker.stderr
    assert "--model and --artifacts" in worker.stderr
    assert "--trust" in worker.stderr


def test_workers_share_a_run_when_a_proxy_stands_before_the_database(workplace: Path, database: str) -> None:
    port = free_port()
    proxy = started(workplace, "proxy", database, "--port", port)
    try:
        search, url = shared(workplace, f"grpc://127.0.0.1:{port}", trials=6, steps=20)
        worker = started(workplace, "worker", url, "--trust")
        said, told = worker.communicate(timeout=300)[0], search.communicate(timeout=300)[0]
        assert (search.returncode, worker.returncode) == (0, 0), f"{told}\n{said}"
        second = typed(workplace, "proxy", database, "--port", str(port))
        assert second.returncode == 2
        assert "port must be free" in second.stderr
        assert "takes the place" not in second.stdout
    finally:
        proxy.terminate()
        proxy.communicate(timeout=30.0)
    storage = open_storage(StudyPlace(database, StudyPlace.parse(url).name))
    assert isinstance(storage, RDBStorage)
    trials = optuna.load_study(study_name=StudyPlace.parse(url).name, storage=storage).get_trials()
    storage.engine.dispose()
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    assert len(complete) == 6
    assert len({t.user_attrs["worker"] for t in complete}) == 2
    assert not [t for t in trials if t.state.name == "RUNNING"]


def test_worker_is_refused_with_the_difference_when_its_model_is_another(workplace: Path, database: str) -> None:
    search, url = shared(workplace, database, trials=3)
    other = elsewhere(workplace)
    text = (other / "user.py").read_text()
    (other / "user.py").write_text(text.replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    worker = typed(other, "worker", url, "--model", "user.py:make", "--data", "user.py:data", "--artifacts", str(workplace / "artifacts"))
    told = search.communicate(timeout=300)[0]
    assert search.returncode == 0, told
    assert worker.returncode == 2
    assert "model weights (" in worker.stderr
    assert "data items" not in worker.stderr


def test_a_workers_trial_goes_to_another_when_it_leaves_or_dies(workplace: Path, database: str) -> None:
    search, url = shared(workplace, database, trials=12, steps=60)
    for count, how in enumerate((signal.SIGTERM, signal.SIGKILL), start=2):
        worker = started(workplace, "worker", url, "--trust")
        deadline = time.monotonic() + 120.0
        while len(workers(workplace)) < count or second_try_under_way(workplace):  # which is lost for good if its worker is lost, too
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
    assert [t.state.name for t in retried] == ["COMPLETE"] * 2
    assert len([t for t in trials if t.state.name == "COMPLETE"]) == 12
    assert not [t for t in trials if t.state.name == "RUNNING"]


def test_ray_places_workers_when_a_search_names_a_cluster(workplace: Path, database: str) -> None:
    quick(workplace / "shared.toml", trials=12, finalists=2, steps=60, more=f"{SHARED}placed = 1\n")
    options = ("--storage", database, "--artifacts", workplace / "artifacts", "--ray", "local")
    done = typed(workplace, "search", "shared.toml", "--run", "run", *options)
    assert done.returncode == 0, done.stderr
    assert len(workers(workplace)) == 2
    assert len([t for t in trials_of(workplace) if t.state.name == "COMPLETE"]) == 12


def test_worker_on_ray_says_why_when_it_cannot_work(workplace: Path, database: str) -> None:
    shared = {"storage": database, "artifacts": str(workplace / "artifacts"), "ray": LOCAL}
    heard = Heard()
    with workers_on_ray(parse_config({"schema": 1, "workers": shared}, "test"), heard)(f"{database}#none"):
        pass
    deadline = time.monotonic() + 30.0
    while not heard.lines:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert heard.lines[0].startswith("warning: worker 1 on Ray ended with RunFolderError: ")


def test_ray_is_refused_when_no_cluster_answers() -> None:
    with pytest.raises(ConfigError, match="ray start --head"):
        demand_ray("127.0.0.1:9")


def test_search_says_what_is_missing_when_the_storage_is_out_of_reach(workplace: Path) -> None:
    quick(workplace / "shared.toml", trials=2, more=SHARED)
    for options, says in (
        (["--storage", "postgresql+psycopg://press@127.0.0.1:9/none", "--artifacts", "artifacts"], "in reach"),
        (["--storage", "postgresql+psycopg://press@127.0.0.1:9/none"], "--artifacts"),
    ):
        done = typed_here(workplace, "search", "shared.toml", "--run", "run", *options)
        assert done.returncode == 2
        assert says in done.stderr
        assert not (workplace / "run").exists()
