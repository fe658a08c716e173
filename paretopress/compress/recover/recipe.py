"""How a compressed module is fine-tuned: optimizer, schedule, batches, and weights that are held at zero. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from paretopress.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Which weights of ungrouped convolutions and Linear layers are zero: a share of all, or all but `kept` of each `of` inputs.

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks", section 3; Mishra et al. 2021,
    "Accelerating sparse deep neural networks", section 3, for 2 of 4.
    """

    share: float = 0.0
    kept: int = 0
    of: int = 0

    @classmethod
    def parse(cls, value: float | str) -> Sparsity:
        """Return what a share in [0, 1) or a pattern "N:M" says, N weights kept of M; raises ConfigError."""
        if isinstance(value, str):
            kept, _, of = value.partition(":")
            if kept.isdecimal() and of.isdecimal() and 0 < int(kept) < int(of):
                return cls(kept=int(kept), of=int(of))
        elif 0.0 <= value < 1.0:
            return cls(share=value)
        raise ConfigError(f"zeros must be a share of the weights in [0, 1), or a pattern such as 2:4, but got {value!r}")


DENSE = Sparsity()


class Optimizer(StrEnum):
    """Optimizers a recipe can name."""

    SGD = "sgd"
    ADAMW = "adamw"


# learning rates that are worth comparing
RATES: Mapping[Optimizer, tuple[float, ...]] = {Optimizer.SGD: (0.003, 0.01, 0.03, 0.1), Optimizer.ADAMW: (3e-5, 1e-4, 3e-4, 1e-3)}


class Schedule(StrEnum):
    """How the learning rate goes after the warm-up: down to zero along half a cosine or a line, or not at all."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How recovery trains. The learning rate rises linearly over `warmup` of the steps, then follows `schedule`.

    `calibration_batches` is the number of training batches for reconstruction and for batch-norm statistics after the last step.
    `features` are layers whose inputs are held to the teacher's, beside the outputs; `zeros` are set as the training begins.
    """

    learning_rate: float = 0.03
    batch_size: int = 128
    optimizer: Optimizer = Optimizer.SGD
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = Schedule.COSINE
    warmup: float = 0.1
    calibration_batches: int = 4
    features: tuple[str, ...] = ()
    zeros: Sparsity = DENSE
