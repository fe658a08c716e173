"""A cause: one reason why a model is slower than its multiply-adds predict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from paretopress.evaluators.optimised_graph import Facts, Node


class CauseKind(StrEnum):
    """What can be wrong."""

    ZERO_POINT = "zero-point blocks fusion"
    SIGNED_ACTIVATIONS = "signed 8-bit activations"
    INT4_ACTIVATIONS = "4-bit weights with 8-bit activations"
    UNFUSED_QDQ = "Q/DQ not fused"
    STRAY_QDQ = "stray Q/DQ"
    FLOAT_ISLAND = "float island"
    INT8_ISLAND = "int8 island"
    FLOAT_JOIN = "quantised join stays float"
    DYNAMIC = "dynamic quantisation"
    DEPTHWISE_INT8 = "depthwise int8"
    NARROW_INT8 = "int8 at few channels"
    TINY_LAYERS = "tiny layers"
    MEMORY_BOUND = "memory-bound Linear"
    ODD_CHANNELS = "odd channels"
    REORDERS = "layout reorders"
    MASKED_CHANNELS = "masked channels"
    SPARSE_WEIGHTS = "zeros in weights"
    UNFUSED_OPS = "unfused normalisation or activation"


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason, with where it was found.

    Attributes:
        where: layers, or nodes that belong to none, in the order of execution.
        latency_ms: measured, of all nodes involved.
        predicted_saving_ms: how much of it a model without the cause is predicted to save; not measured.
        what, change: a plain sentence each.
    """

    kind: CauseKind
    where: tuple[str, ...]
    latency_ms: float
    predicted_saving_ms: float
    what: str
    change: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "kind": str(self.kind),
            "where": list(self.where),
            "latency_ms": self.latency_ms,
            "predicted_saving_ms": self.predicted_saving_ms,
            "what": self.what,
            "change": self.change,
        }


Detector = Callable[[Facts], list[Cause]]


def cause(kind: CauseKind, where: Iterable[Node], involved: Iterable[Node], expected_ms: float, what: str, change: str) -> Cause:
    """Return a cause whose saving is what the nodes involved take beyond `expected_ms`, and never less than nothing."""
    latency_ms = total_ms(involved)
    names = tuple(dict.fromkeys(node.where for node in where))
    return Cause(kind, names, latency_ms, max(latency_ms - expected_ms, 0.0), what, change)


def total_ms(nodes: Iterable[Node]) -> float:
    """Return the sum over different nodes; one that is listed twice counts once."""
    return sum({id(node): node.latency_ms for node in nodes}.values())


def counted(nodes: Sequence[Node], one: str, many: str) -> str:
    """Return "1 layer" or "3 layers"."""
    return f"{len(nodes)} {one if len(nodes) == 1 else many}"
