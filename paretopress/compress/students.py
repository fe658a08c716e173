"""Weights of students trained earlier in this process: plans that differ in nothing that training sees share them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from paretopress.measurement import Rung
from paretopress.plan import Plan

_KEPT_BYTES = 256 << 20
State = dict[str, Tensor]


class Students:
    """Keeps the weights that were used last, up to 256 MB.

    A recovery is a function of the widths, ranks, distillation settings and rung alone: the bits come after it, the batches are the same
    for every plan. So a plan that differs from an earlier one in its bits gets that one's weights, and they are what it would have learnt.
    """

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._states: OrderedDict[tuple[Plan, Rung], State] = OrderedDict()
        self._left_bytes = kept_bytes

    def load(self, student: nn.Module, plan: Plan, rung: Rung) -> bool:
        """Give `student` the weights that the plan's recovery ended with, and return whether they are known."""
        state = self._states.get(_key(plan, rung))
        if state is None:
            return False
        self._states.move_to_end(_key(plan, rung))
        with torch.no_grad():
            student.load_state_dict(state)
        return True

    def keep(self, student: nn.Module, plan: Plan, rung: Rung) -> None:
        """Remember a copy of the weights; those that were not used for longest give way."""
        if _key(plan, rung) in self._states:
            return
        state = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
        self._left_bytes -= _bytes(state)
        self._states[_key(plan, rung)] = state
        while self._left_bytes < 0 and self._states:
            self._left_bytes += _bytes(self._states.popitem(last=False)[1])


def _key(plan: Plan, rung: Rung) -> tuple[Plan, Rung]:
    return Plan(plan.kept, plan.rank, {}, plan.temperature, plan.alpha), rung


def _bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())
