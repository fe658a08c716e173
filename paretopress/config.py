"""The configuration of a run: one TOML file, or the same from the command line or from Python."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from paretopress.compress.recover.recipe import Optimizer, Recipe, Schedule, Sparsity
from paretopress.core.outcome import Budget, Metric
from paretopress.core.plan import Criterion
from paretopress.errors import ConfigError, TrustError
from paretopress.search.limits import GRACE_S, Limits
from paretopress.search.sampler_names import DEFAULT_SAMPLER
from paretopress.spaces.knobs import Knob
from paretopress.system.secret_masking import masked
from paretopress.tasks.metric_names import TOP_1, UNITS

CONFIG_SCHEMA = 1


# below a quarter of its side little is left of what a photo shows
_LEAST_RESOLUTION = 0.25


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetSection(_Section):
    """Hard bounds; see `Budget`."""

    latency_ms: float | None = None
    speedup: float | None = None
    max_drop: float | None = None
    size_bytes: int | None = None


class OutputSection(_Section):
    """One of several outputs that are judged: its name or its place among the outputs from 0 on, its metric, and its weight."""

    output: str | int
    name: str = TOP_1
    weight: float = Field(1.0, gt=0.0)


class MetricSection(_Section):
    """How outputs are scored: by a metric's name, see `tasks.choose.TASKS`, or by a function of the user's, FILE.py:FUNCTION.

    A function takes (outputs, targets) of all items as arrays; `learnt_as` is the task whose loss students learn by, `unit` what the
    score is measured in. The bound on the drop is in that unit. `decoder` reads the boxes of a detector's raw outputs, see
    `core.box_decoding.DECODERS`; it may be FILE.py:FUNCTION too. With `outputs` each of those has a label of its own, and the score is
    their weighted mean.
    """

    name: str = TOP_1
    decoder: str | None = None
    learnt_as: str = "classification"
    unit: str = "%"
    lower_is_better: bool = False
    outputs: tuple[OutputSection, ...] = ()

    def metric(self) -> Metric:
        """Return what the score is called and measured in."""
        if self.outputs:
            return Metric("mean of " + " and ".join(part.name for part in self.outputs))
        name = self.name.rpartition(":")[2]
        return Metric(name, UNITS.get(self.name.lower(), self.unit), not self.lower_is_better)


class TimeSection(_Section):
    """When the search ends; see `Limits`. Of minutes and hours, give one."""

    trials: int | None = None
    minutes: float | None = None
    hours: float | None = None
    finalist_share: float = Field(0.4, ge=0.0, lt=1.0)
    finalists: int = Field(6, ge=0)
    stop_early: bool = True


class RecoverySection(_Section):
    """How candidates are trained; see `Recipe`. What is None is found at the start of the run, by a test or from the time given.

    `temperature` and `label_share` (1 - alpha) fix what is searched otherwise.
    `short_steps`, `long_steps` and `final_steps` are training batches of a trial, of one that goes on, and of a finalist, each on top of
    those before; with 0 short steps layers are re-solved and nothing is trained, and with 0 long steps no trial goes on. Where
    `short_steps` are given and `long_steps` are not, they are 0.
    `calibration_batches` are for re-solving layers and for batch-norm statistics; with 0 neither is done.
    `features` are layers whose inputs are held to the original's while a candidate is trained (feature distillation).
    `zeros` is a share of the weights, or a pattern "N:M", that is zero from a candidate's training on; see `Sparsity`.
    """

    learning_rate: float | None = Field(None, gt=0.0)
    batch_size: int = Field(128, ge=2)
    optimizer: Literal["sgd", "adamw"] | None = None
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(1e-4, ge=0.0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0.0, le=1.0)
    temperature: float | None = Field(None, gt=0.0)
    label_share: float | None = Field(None, ge=0.0, le=1.0)
    calibration_batches: int = Field(4, ge=0)
    features: tuple[str, ...] = ()
    zeros: float | str = 0.0
    short_steps: int | None = Field(None, ge=0)
    long_steps: int | None = Field(None, ge=0)
    final_steps: int | None = Field(None, ge=0)

    @field_validator("zeros")
    @classmethod
    def _checked(cls, value: float | str) -> float | str:
        Sparsity.parse(value)
        return value

    def recipe(self, learning_rate: float, usual: Optimizer = Optimizer.SGD) -> Recipe:
        """Return the recipe at a learning rate, with the `usual` optimizer where none is named."""
        return Recipe(
            learning_rate,
            self.batch_size,
            Optimizer(self.optimizer or usual),
            self.momentum,
            self.weight_decay,
            Schedule(self.schedule),
            self.warmup,
            self.calibration_batches,
            self.features,
            Sparsity.parse(self.zeros),
        )


class TargetSection(_Section):
    """Where latency is measured, with so many threads: `local`, or `ssh://user@host[:port]`, see `parse_address`.

    `cores` are those that measurements are pinned to. `score_on_target` has accuracy scored there too, because int8 kernels differ
    between processors. With `probe` false a search takes what the processor's flags tell, and neither makes a probe nor reads one.
    """

    spec: str = "local"
    threads: int = Field(1, ge=1)
    cores: tuple[int, ...] = ()
    score_on_target: bool = False
    probe: bool = True


class SpaceSection(_Section):
    """Bounds on the search space; None is what the target's capabilities say. Knobs in `frozen` are not searched.

    `importance` are the criteria that channels are ranked by: with several, each plan chooses one. `resolution` are shares of the height
    and width of the model's images; the first is 1. `dynamic` and `float16` are the `Formats` of all candidates.
    """

    channel_step: int | None = Field(None, ge=1)
    bits: tuple[Literal[32, 8, 4], ...] | None = None
    frozen: tuple[Knob, ...] = ()
    importance: tuple[Criterion, ...] = Field((Criterion.L2,), min_length=1)
    resolution: tuple[float, ...] = Field((1.0,), min_length=1)
    dynamic: bool = False
    float16: bool = False

    @field_validator("resolution")
    @classmethod
    def _falling(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] != 1.0 or list(value) != sorted(set(value), reverse=True) or value[-1] < _LEAST_RESOLUTION:
            raise ValueError(f"resolution must fall from 1.0 to {_LEAST_RESOLUTION} at least, such as [1.0, 0.875, 0.75]")
        return value


class WorkersSection(_Section):
    """How many trials are evaluated at a time on this host, which divide its cores.

    `isolated` has each evaluated in a process of its own, whose death costs one trial; a model or data handed over in Python cannot be.
    `storage` is the URL of a database, or of Optuna's gRPC proxy, that workers on other hosts reach too; `artifacts` is a folder or an S3
    bucket that they share, `study` the run's name there. A worker that is not heard of for `grace_s` is taken for dead.
    `ray` is the address of a Ray cluster, or "local": so many workers are `placed` there, each with so many CPUs and GPUs.
    """

    count: int = Field(1, ge=1, le=1_024)
    isolated: bool = True
    storage: str | None = Field(None, repr=False)  # it may hold a password
    artifacts: str | None = None
    study: str | None = None
    grace_s: int = Field(GRACE_S, ge=4)
    ray: str | None = None
    placed: int = Field(1, ge=1)
    cpus: float = Field(1.0, gt=0.0)
    gpus: float = Field(0.0, ge=0.0)


class DiskSection(_Section):
    """`keep_mb` is how much the candidates of a run may take before the files of dominated ones are dropped.

    `cache_mb` is what may stay in the user's cache for later runs: findings, trained students, latencies. With 0 it is not used.
    """

    keep_mb: float = Field(4_096.0, gt=0.0)
    cache_mb: float = Field(2_048.0, ge=0.0)


class RunConfig(_Section):
    """Everything that decides a run. `model` and `data` are specs, None where a module and data sets were handed over in Python.

    `base` is the folder that relative paths in the specs start from. `trust` allows reading pickles; in a file it counts with the flag
    alone, see `confirmed`. `replay` is the folder of a run whose latencies are given out again
    instead of measuring. `evaluators` measure further figures of each candidate's file, `reporters` are told of every trial beside the
    terminal; both are names that installed packages offer.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    model: str | None = None
    data: str | None = None
    base: str | None = None
    trust: bool = False
    replay: str | None = None
    seed: int = Field(0, ge=0)
    sampler: str = DEFAULT_SAMPLER
    evaluators: tuple[str, ...] = ()
    reporters: tuple[str, ...] = ()
    metric: MetricSection = MetricSection()
    budget: BudgetSection = BudgetSection()
    time: TimeSection = TimeSection()
    recovery: RecoverySection = RecoverySection()
    target: TargetSection = TargetSection()
    space: SpaceSection = SpaceSection()
    workers: WorkersSection = WorkersSection()
    disk: DiskSection = DiskSection()

    def checked_budget(self) -> Budget:
        """Return the budget; raises BudgetError."""
        return Budget(**self.budget.model_dump())

    def limits(self) -> Limits:
        """Return when the search ends; raises ConfigError."""
        time, planned = self.time, self.recovery.final_steps is None
        seconds = seconds_of(time.minutes, time.hours)
        return Limits(time.trials, seconds, time.finalist_share, time.finalists, time.stop_early, longer_finalists=planned)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `parse_config` reads back."""
        return self.model_dump(mode="json", by_alias=True)


def seconds_of(minutes: float | None, hours: float | None) -> float | None:
    """Return a time in seconds, None where neither is given; raises ConfigError where both are."""
    if minutes is not None and hours is not None:
        raise ConfigError(f"minutes or hours may be given, not both, but got minutes={minutes}, hours={hours}")
    return hours * 3600.0 if hours is not None else minutes * 60.0 if minutes is not None else None


def parse_config(value: dict[str, Any], source: str) -> RunConfig:
    """Return a configuration; raises ConfigError naming the key and what is wrong with it."""
    try:
        return RunConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        got = masked(repr(first["input"]))
        raise ConfigError(f"{masked(source)} must be a valid configuration, but at {key}: {first['msg']}, got {got}") from None


def confirmed(config: RunConfig, *, trust: bool, source: str) -> RunConfig:
    """Return a configuration that was read from a file, with `trust` as whoever runs it says.

    Raises: TrustError: the file asks for trust, and `trust` was not given: a file cannot trust itself.
    """
    if config.trust and not trust:
        raise TrustError(
            f"trust = true in a file counts together with --trust alone, but got no --trust at {source}",
            "Add --trust if you know where the model that it names comes from: reading a pickle can run any code.",
        )
    return config.model_copy(update={"trust": trust})


def read_config(path: Path, *, trust: bool = False) -> RunConfig:
    """Return the configuration in a TOML file; relative paths in it start from its folder.

    Raises: ConfigError: it cannot be read. TrustError: it says trust = true and `trust` was not given beside it.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration must be readable, but got {error.strerror} at {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration must be TOML, but got: {error} at {path}") from error
    if value.get("schema") != CONFIG_SCHEMA:
        raise ConfigError(f"the configuration must have schema = {CONFIG_SCHEMA}, but got schema={value.get('schema')} at {path}")
    return confirmed(parse_config({"base": str(path.resolve().parent), **value}, str(path)), trust=trust, source=str(path))
