"""A device over SSH as a target: an agent, sent over the connection, measures there in its own process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paretopress.core.arrays import Feed
from paretopress.core.outcome import Latency
from paretopress.core.untrusted_values import parse_environment, parse_latency, printable
from paretopress.errors import ConfigError, ForeignDataError, LatencyError, ParetopressError, TargetLostError, first_line
from paretopress.runtimes.runtime import OpenFile
from paretopress.targets.agent_process import AgentProcess, start_agent
from paretopress.targets.file_facts import file_facts
from paretopress.targets.local import LocalTarget
from paretopress.targets.ssh_address import SshAddress
from paretopress.targets.wire_protocol import Frame, pack_arrays, unpack_arrays

Start = Callable[[SshAddress, Sequence[str]], AgentProcess]

# a device that restarts, or a radio link that drops, is back in half a minute
BACKOFF_S = (1.0, 5.0, 25.0)


@dataclass(frozen=True, slots=True)
class _File:
    """An ONNX file; on the device it is called by its hash, and looked at again before it is used."""

    path: Path
    sha256: str

    @classmethod
    def at(cls, path: Path) -> _File:
        with _readable(path):
            return cls(path, file_facts(path)[1])

    @property
    def name(self) -> str:
        return self.path.name

    def data(self) -> bytes:
        with _readable(self.path):
            return self.path.read_bytes()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LatencyError(f"the file must be readable, but got {error.strerror} at {path.name}") from error


class SshTarget:
    """A machine over SSH; implements `Target`. Connects at the first request.

    Args:
        measuring: this host's protocol and session settings, which the agent takes over.
        start: returns a running agent; the second argument names folders of killed ones to remove.
        backoff_s: waits before a request is tried again, over a new connection, after the connection or the agent was lost.
    Invariant: a request is answered as a whole or not at all; on the device lie at most the agent, the reference, one candidate and the
    files that are open.
    """

    def __init__(
        self,
        address: SshAddress,
        measuring: LocalTarget | None = None,
        *,
        start: Start = start_agent,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self._address, self._measuring = address, measuring or LocalTarget()
        self._start, self._backoff_s = start, tuple(backoff_s)
        self._agent: AgentProcess | None = None
        self._reached = False
        self._killed: list[str] = []
        self._reference = ""
        self._open: list[str] = []

    @property
    def name(self) -> str:
        """The address without its options, e.g. "ssh://user@host:22"."""
        return self._address.name

    def environment(self) -> dict[str, Any]:
        """Return what the device is; see `targets.environment`. Raises: ConfigError, TargetLostError: as `start_agent`."""
        reply, _ = self._ask({"command": "environment", "remove": []})
        found = parse_environment(reply.get("environment"), self.name)
        settings = self._measuring.settings
        return found | self._measuring.runtime.conditions(settings)

    def run(self, path: Path, feed: Feed) -> list[npt.NDArray[Any]]:
        """Return the outputs of one run of a file there. Raises: LatencyError: the file or the feed fails. TargetLostError."""
        _, payload = self._ask({"command": "run"}, [_File.at(path)], feed)
        try:
            return unpack_arrays(payload)
        except ValueError as error:
            raise ForeignDataError(f"a target must answer with arrays, but got: {first_line(error)} at {self.name}") from error

    @contextlib.contextmanager
    def opened(self, path: Path, *, beside_others: bool = False) -> Iterator[OpenFile]:
        """Yield a file that is sent and opened once; see `Target.opened`. Raises: LatencyError. TargetLostError."""
        file = _File.at(path)
        about = {"candidate": file.sha256, "target": self._measuring.to_json(), "beside_others": beside_others}

        def run(feed: Feed) -> list[npt.NDArray[Any]]:
            return unpack_arrays(self._ask({"command": "feed", **about}, [file], feed)[1])

        self._open.append(file.sha256)
        try:
            reply, _ = self._ask({"command": "open", **about}, [file])
            yield OpenFile(tuple((name, tuple(shape)) for name, shape in reply["inputs"]), run)
        finally:
            self._open.remove(file.sha256)
            if self._agent is not None and file.sha256 not in self._open:
                with contextlib.suppress(ParetopressError):  # an agent that is lost has shut it, too
                    self._agent.ask({"command": "shut", **about})

    def measure(
        self,
        candidate: Path,
        reference: Path,
        *,
        baseline_ms: float | None,
        limit_ms: float | None,
        feed: Feed,
        rng: np.random.Generator,
    ) -> Latency:
        """Return the latency of `candidate` there; see `Target.measure`. Raises: LatencyError. TargetLostError."""
        files = [_File.at(candidate), _File.at(reference)]
        self._reference = files[1].sha256
        head = {
            "command": "measure",
            "reference": self._reference,
            "baseline_ms": baseline_ms,
            "limit_ms": limit_ms,
            "seed": _seed(rng),
        }
        return parse_latency(self._ask(head, files, feed)[0].get("latency"), self.name)

    def measure_baseline(self, path: Path, *, feed: Feed, rng: np.random.Generator) -> Latency:
        """Return the latency of the baseline there; see `Target.measure_baseline`. Raises: LatencyError. TargetLostError."""
        file = _File.at(path)
        self._reference = file.sha256
        reply, _ = self._ask({"command": "measure_baseline", "seed": _seed(rng)}, [file], feed)
        return parse_latency(reply.get("latency"), self.name)

    def close(self) -> None:
        """End the agent and remove all that lies on the device; a later request would start anew."""
        with contextlib.suppress(ParetopressError):
            if self._killed:
                self._agent = self._started()
        self._drop()

    def _ask(self, head: Mapping[str, Any], files: Sequence[_File] = (), feed: Feed | None = None) -> Frame:
        """Return the reply to a request about the first of `files`, all of which are there when it is made."""
        if files and feed is not None:
            head = {**head, "candidate": files[0].sha256, "inputs": list(feed), "target": self._measuring.to_json()}
        reply, payload = self._persist(head, files, pack_arrays(list(feed.values())) if feed is not None else b"")
        if "error" not in reply:
            return reply, payload
        message = printable(reply["error"])
        for file in files:
            message = message.replace(f"{file.sha256}.onnx", file.name)
        raise LatencyError(f"{message} on {self.name}", printable(reply.get("hint", "")))

    def _persist(self, head: Mapping[str, Any], files: Sequence[_File], payload: bytes) -> Frame:
        """Ask again, over a new connection, after one that broke. What is wrong from the start is said at once."""
        failure: ParetopressError | None = None
        for wait_s in (0.0, *self._backoff_s):
            time.sleep(wait_s)
            try:
                self._agent = self._started()
                return _converse(self._agent, head, files, payload, keep={self._reference, *self._open})
            except (TargetLostError, LatencyError, ConfigError) as error:
                if not self._reached:
                    raise
                if self._agent is not None and isinstance(error, LatencyError):
                    self._killed.append(self._agent.token)
                self._drop()
                failure = error
        assert failure is not None
        if isinstance(failure, LatencyError):
            raise failure
        raise TargetLostError(f"{failure.message} ({1 + len(self._backoff_s)} attempts)", failure.hint) from failure

    def _started(self) -> AgentProcess:
        if self._agent is not None:
            return self._agent
        agent = self._start(self._address, self._killed)
        self._reached, self._killed = True, []
        return agent

    def _drop(self) -> None:
        if self._agent is not None:
            self._agent.close()
        self._agent = None


def _converse(agent: AgentProcess, head: Mapping[str, Any], files: Sequence[_File], payload: bytes, keep: set[str]) -> Frame:
    """Send the files that the agent has not, then the request; a file's refusal is the reply."""
    keep = keep | {file.sha256 for file in files}
    for file in files:
        if file.sha256 not in agent.files:
            refused = agent.ask({"command": "put", "sha256": file.sha256, "keep": sorted(keep)}, file.data())
            if "error" in refused[0]:
                return refused
            agent.files = agent.files & keep | {file.sha256}
    return agent.ask(head, payload)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))
