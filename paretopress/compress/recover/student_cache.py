"""A cache of trained students' weights, in memory and on disk: plans that training cannot tell apart share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from paretopress.core.outcome import Rung
from paretopress.core.plan import Plan
from paretopress.errors import RecoveryError
from paretopress.system.atomic_files import write_bytes
from paretopress.system.disk_cache import Cache
from paretopress.system.lru_cache import LruCache

_KEPT_BYTES = 256 << 20
_KIND, _FILE = "student", "student.safetensors"
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class StudentStore:
    """Students on disk; `training` is all that decides a fine-tuning beside its plan and rung, as JSON values."""

    cache: Cache
    training: Mapping[str, Any]

    def get(self, student: nn.Module, plan: Plan, rung: Rung) -> State | None:
        """Return the weights of an earlier recovery, None if there was none, or its file is not of this student."""

        def read(place: Path) -> State:
            state = load_file(place / _FILE)
            if not fits(student, state):
                raise RecoveryError(f"the weights of a student must be those of its tensors, but got {len(state)} others at {place}")
            return state

        return self.cache.read(_KIND, self._parts(plan, rung), read)

    def put(self, plan: Plan, rung: Rung, state: State) -> None:
        """Keep the weights of a recovery."""
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        self.cache.put(_KIND, self._parts(plan, rung), lambda place: write_bytes(place / _FILE, save(tensors)))

    def _parts(self, plan: Plan, rung: Rung) -> dict[str, Any]:
        return {"training": self.training, "plan": plan.to_json(), "rung": int(rung)}


class StudentCache:
    """Keeps the weights that were used last, up to 256 MB in memory, and all of them in the `store` on disk if there is one.

    A recovery is a function of all of the plan but its bits, and of the rung alone: the bits come after it, the batches are the same
    for every plan. So a plan that differs from an earlier one in its bits gets that one's weights, and they are what it would have learnt.
    """

    def __init__(self, kept_bytes: int = _KEPT_BYTES, store: StudentStore | None = None) -> None:
        self._states = LruCache[State](kept_bytes, lambda state: sum(tensor.nbytes for tensor in state.values()))
        self._store = store

    def load(self, student: nn.Module, plan: Plan, rung: Rung) -> bool:
        """Give `student` the weights that the plan's recovery ended with, and return whether they are known."""
        key = _key(plan, rung)
        state = self._states.get(key) or (self._store.get(student, *key) if self._store is not None else None)
        if state is None:
            return False
        if key not in self._states:
            self._states.put(key, state)
        with torch.no_grad():
            student.load_state_dict(state)
        return True

    def keep(self, student: nn.Module, plan: Plan, rung: Rung) -> None:
        """Remember a copy of the weights; those that were not used for longest give way."""
        key = _key(plan, rung)
        if key in self._states:
            return
        state = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
        self._states.put(key, state)
        if self._store is not None:
            self._store.put(*key, state)


def fits(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Return whether weights are those of a module: the same names, each of the same shape and type."""
    own = module.state_dict()
    if own.keys() != state.keys():
        return False
    return all(tensor.shape == state[name].shape and tensor.dtype == state[name].dtype for name, tensor in own.items())


def _key(plan: Plan, rung: Rung) -> tuple[Plan, Rung]:
    return replace(plan, bits={}), rung
