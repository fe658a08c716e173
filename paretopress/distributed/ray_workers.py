"""Workers of a shared run on a Ray cluster: Ray decides where, each is what `paretopress worker` is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from paretopress.config import RunConfig
from paretopress.distributed.worker import WorkerFlags, run_worker
from paretopress.errors import ConfigError, typed_line
from paretopress.report.live import Reporter, SilentReporter
from paretopress.system.secret_masking import masked

LOCAL = "local"  # a cluster of this host alone, for as long as the run lasts
# what a worker may still do when the run has ended: it leaves by itself
_LEAVES_S = 60.0
_ANSWERS_S = 10.0


def work_on(url: str, flags: WorkerFlags) -> None:
    """Work on a shared run until it ends; what Ray runs on a node."""
    run_worker(url, SilentReporter(), flags)


def flags_of(config: RunConfig) -> WorkerFlags:
    """Return what the search hands to its workers on Ray: what its own user named, not what the study says."""
    return WorkerFlags(
        config.model,
        config.data,
        config.metric.name,
        config.target.spec,
        config.workers.artifacts,
        config.metric.decoder,
        base=config.base,
        trust=config.trust,
    )


def demand_ray(address: str) -> None:
    """Raise ConfigError unless Ray is installed and its cluster answers."""
    if address == LOCAL:
        _installed_ray()
        return
    with _cluster(address):
        pass


def workers_on_ray(config: RunConfig, reporter: Reporter) -> Callable[[str], AbstractContextManager[None]]:
    """Return what, given a shared run's URL, places its workers on the cluster for as long as a block lasts.

    Each takes the CPUs and GPUs that the configuration asks for. The nodes need this package, and the model and data under the same paths:
    a worker that cannot work says why, and the run goes on without it.
    """
    address, flags = config.workers.ray, flags_of(config)
    assert address is not None

    @contextmanager
    def placed(url: str) -> Iterator[None]:
        with _cluster(address) as ray:
            remote = ray.remote(num_cpus=config.workers.cpus, num_gpus=config.workers.gpus, max_retries=-1)(work_on)
            workers = [remote.remote(url, flags).future() for _ in range(config.workers.placed)]
            for number, worker in enumerate(workers, start=1):
                worker.add_done_callback(lambda ended, number=number: _tell(ended, number, reporter))
            yield
            wait(workers, timeout=_LEAVES_S)

    return placed


def _tell(ended: Future[None], number: int, reporter: Reporter) -> None:
    """Say why a worker could not work."""
    error = ended.exception()
    if error is not None:
        reporter.message(masked(f"warning: worker {number} on Ray ended with {typed_line(getattr(error, 'cause', None) or error)}"))


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Yield Ray, connected to a cluster; raises ConfigError if none answers."""
    ray = _installed_ray()
    try:
        _check_listening(address)
        ray.init(address=None if address == LOCAL else address, log_to_driver=False, configure_logging=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"workers on Ray need a cluster that answers, but got {typed_line(error)} at {address!r}",
            "Start one with `ray start --head`, or say --ray local.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray itself would wait for it for five minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname is not None and place.port is not None:
        socket.create_connection((place.hostname, place.port), timeout=_ANSWERS_S).close()


def _installed_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("workers on Ray need it, but it is not installed", "pip install 'paretopress[ray]'.") from error
    return ray
