"""Workers of a shared run on a Ray cluster: Ray decides where, each is what `paretopress worker` is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from paretopress.config import RunConfig
from paretopress.errors import ConfigError
from paretopress.report.live import SilentReporter
from paretopress.worker import run_worker

# what a worker may still do when the run has ended: it leaves by itself
_LEAVES_S = 60.0


def work_on(url: str, artifacts: str) -> None:
    """Work on a shared run until it ends; what Ray runs on a node."""
    run_worker(url, SilentReporter(), artifacts=artifacts)


def workers_on_ray(config: RunConfig) -> Callable[[str], Any]:
    """Return what, given a shared run's URL, places its workers on the cluster for as long as a block lasts.

    Each takes the CPUs and GPUs that the configuration asks for. The nodes need this package, and the model and data under the same paths.
    """

    @contextmanager
    def placed(url: str) -> Iterator[None]:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("workers on Ray need it, but it is not installed", "pip install 'paretopress[ray]'.") from error
        artifacts = config.workers.artifacts
        assert artifacts is not None  # a shared run is refused without
        ray.init(address=None if config.workers.ray == "local" else config.workers.ray, log_to_driver=False, configure_logging=False)
        try:
            remote = ray.remote(num_cpus=config.workers.cpus, num_gpus=config.workers.gpus, max_retries=-1)(work_on)
            placed = [remote.remote(url, artifacts) for _ in range(config.workers.placed)]
            yield
            ray.wait(placed, num_returns=len(placed), timeout=_LEAVES_S)
        finally:
            ray.shutdown()

    return placed
