"""A target over SSH, against a server of our own on loopback; the device's Python has numpy and onnxruntime alone."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest
from loopback_sshd import SshServer, missing
from skips import need

from paretopress.errors import ConfigError, LatencyError, TargetLostError
from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets import agent_process
from paretopress.targets.local import LocalTarget
from paretopress.targets.lock import sole_measurement
from paretopress.targets.ssh import SshTarget
from paretopress.targets.ssh_address import SshAddress

pytestmark = pytest.mark.slow

T = TypeVar("T")
FEED = {"x": np.ones((1, 1, 8, 8), np.float32)}


def wait_for(what: Callable[[], T], seconds: float = 60.0) -> T:
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return found


class Server(SshServer):
    """A server that tells what runs on the device."""

    @property
    def address(self) -> SshAddress:
        return SshAddress("127.0.0.1", getpass.getuser(), self.port, key=self.folder / "user", known_hosts=self.folder / "known_hosts")

    def agents(self) -> list[psutil.Process]:
        """Return the agents that run, by the token in their command line."""
        return [p for p in psutil.process_iter(["cmdline"]) if agent_process.BOOTSTRAP in (p.info["cmdline"] or ())]

    def working(self) -> psutil.Process | None:
        """Return an agent that has got its file: it measures, or is about to."""
        return self.agents()[0] if any(self.device.glob("paretopress-*/*.onnx")) else None

    def is_clean(self) -> bool:
        return not self.agents() and not [path for path in self.device.iterdir() if path.suffix != ".lock"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need(missing())
    server = Server(tmp_path_factory.mktemp("sshd"))
    server.make_key("stranger")
    server.know("other_known", "stranger")
    (server.folder / "nobody_known").touch()
    yield server
    server.stop()


@pytest.fixture
def server(made: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server; the device's lock is this process's too, and every test leaves the device clean."""
    monkeypatch.setattr(tempfile, "tempdir", str(made.device))
    yield made
    wait_for(made.is_clean)


@pytest.fixture
def target(server: Server, lonely_python: Path) -> Iterator[SshTarget]:
    measuring = LocalTarget(SessionSettings(threads=1), blocks=2, baseline_blocks=2, max_rounds=1)
    with closing(SshTarget(replace(server.address, python=str(lonely_python)), measuring, backoff_s=(0.1, 0.1))) as opened:
        yield opened


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_measure_compares_two_files_there_when_they_are_the_same(target: SshTarget, server: Server, small_onnx: Path) -> None:
    baseline = target.measure_baseline(small_onnx, feed=FEED, rng=rng())
    latency = target.measure(small_onnx, small_onnx, baseline_ms=baseline.latency_ms, limit_ms=None, feed=FEED, rng=rng())
    assert latency.ratio_ci[0] - 0.2 < 1.0 < latency.ratio_ci[1] + 0.2
    assert latency.latency_ms == pytest.approx(baseline.latency_ms * latency.ratio)
    assert len(server.agents()) == 1
    target.close()
    assert server.is_clean()  # not a moment later


def test_run_gives_the_outputs_of_this_host_when_run_there(target: SshTarget, small_onnx: Path) -> None:
    feed = {"x": rng().standard_normal((5, 1, 8, 8), dtype=np.float32)}
    assert np.allclose(target.run(small_onnx, feed)[0], LocalTarget().run(small_onnx, feed)[0], atol=1e-5)


def test_environment_is_the_devices_when_asked(target: SshTarget, lonely_python: Path) -> None:
    found = target.environment()
    assert found["versions"]["onnx"] is None  # as there, and not as here
    assert found["cores_physical"] is None
    assert (found["threads"], found["cores_logical"]) == (1, os.cpu_count())


def test_run_names_the_file_when_the_runtime_cannot_load_it(target: SshTarget, tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"no protobuf")
    with pytest.raises(LatencyError, match=r"INVALID_PROTOBUF.*junk\.onnx on ssh://"):
        target.run(tmp_path / "junk.onnx", FEED)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"known_hosts": "nobody_known"}, ConfigError, r"must be known, but got the new ssh-ed25519 SHA256:\S+ of .*ssh-keyscan -p"),
        ({"known_hosts": "other_known"}, ConfigError, r"must be the known one, but got another ssh-ed25519 SHA256:.*ssh-keygen -R"),
        ({"key": "stranger"}, ConfigError, r"must accept the key .*stranger, but got: Authentication failed.*ssh-copy-id"),
        ({"port": 1}, TargetLostError, r"must be in reach, but got: .*Unable to connect to port 1 "),
        ({"host": "no-such-host.invalid"}, TargetLostError, r"must be in reach, but got: .*at ssh://"),
        ({"python": "no-such-python"}, ConfigError, r"must run the agent, but got: .*no-such-python: .*not found"),
    ],
    ids=["unknown host key", "other host key", "refused key", "closed port", "no host", "no python"],
)
def test_environment_says_what_is_wrong_when_it_cannot_start(
    server: Server, changes: dict[str, object], error: type[Exception], says: str
) -> None:
    files = {name: server.folder / str(value) for name, value in changes.items() if name in ("key", "known_hosts")}
    with pytest.raises(error, match=re.compile(says, re.DOTALL)):
        SshTarget(replace(server.address, **(changes | files))).environment()  # type: ignore[arg-type]


def test_environment_says_what_is_wrong_when_there_is_no_runtime(server: Server, bare_python: Path) -> None:
    with pytest.raises(ConfigError, match=r"No module named 'numpy' at ssh://.*pip install numpy onnxruntime"):
        SshTarget(replace(server.address, python=str(bare_python))).environment()


def test_environment_says_what_is_wrong_when_the_runtime_is_old(target: SshTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_process, "RUNTIME_AT_LEAST", (99, 0))
    with pytest.raises(ConfigError, match=r"must be 99\.0 or newer, but got 1\."):
        target.environment()


def interrupted(target: SshTarget, server: Server, file: Path, interrupt: Callable[[psutil.Process], None]) -> float:
    """Return the ratio of a measurement that was interrupted in the middle."""
    target.environment()
    with ThreadPoolExecutor(1) as pool:
        with sole_measurement():  # the agent waits for it where it would measure
            future = pool.submit(target.measure_baseline, file, feed=FEED, rng=rng())
            interrupt(wait_for(server.working))
        return future.result(timeout=60).ratio


def test_measure_is_made_again_when_the_agent_is_killed(target: SshTarget, server: Server, small_onnx: Path) -> None:
    assert interrupted(target, server, small_onnx, psutil.Process.kill) == pytest.approx(1.0, abs=0.5)


def test_measure_is_made_again_when_the_connection_drops(target: SshTarget, server: Server, small_onnx: Path) -> None:
    def drop(agent: psutil.Process) -> None:
        server.drop_connections()
        agent.wait(timeout=30)  # though it waits for the lock, and nobody killed it

    assert interrupted(target, server, small_onnx, drop) == pytest.approx(1.0, abs=0.5)


def test_measure_says_the_target_is_lost_when_it_stays_away(target: SshTarget, server: Server, small_onnx: Path) -> None:
    try:
        with pytest.raises(TargetLostError, match=r"must be in reach.*\(3 attempts\)"):
            interrupted(target, server, small_onnx, lambda _: server.stop())
        wait_for(server.is_clean)
    finally:
        server.start()
    assert target.measure_baseline(small_onnx, feed=FEED, rng=rng()).blocks == 8  # once it is back


def test_agent_ends_when_the_host_is_killed(server: Server, lonely_python: Path) -> None:
    address = replace(server.address, python=str(lonely_python))
    program = (
        "import time; from pathlib import Path, PosixPath; from paretopress.targets.ssh import SshTarget; "
        f"from paretopress.targets.ssh_address import SshAddress; target = SshTarget({address!r}); target.environment(); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as host:
        wait_for(lambda: server.agents() and any(server.device.glob("paretopress-*/agent.pyz")))
        host.kill()
    assert wait_for(server.is_clean)


def test_search_measures_and_scores_there_when_told(server: Server, lonely_python: Path, workplace: Path) -> None:
    options = f"python={lonely_python}&key={server.folder}/user&known_hosts={server.folder}/known_hosts"
    (workplace / "quick.toml").write_text(
        'schema = 1\nmodel = "user.py:make"\ndata = "user.py:data"\n[budget]\nlatency_ms = 1000\n[time]\ntrials = 2\nfinalists = 0\n'
        "[recovery]\nshort_steps = 0\nfinal_steps = 0\nbatch_size = 32\n"
    )
    spec = f"{server.address.name}?{options}"
    command = [
        sys.executable,
        "-m",
        "paretopress",
        "search",
        "quick.toml",
        "--run",
        "run",
        "--no-probe",
        "--target",
        spec,
        "--score-on-target",
    ]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    front = json.loads((workplace / "run/front.json").read_text())
    assert front["environment"]["target"] == server.address.name
    assert front["environment"]["versions"]["onnx"] is None
    assert front["environment"]["host"]["versions"]["onnx"]
    assert sum(front["trials"].values()) == 2
    assert front["trials"]["failed"] == 0
