"""Check the traced model against the original on real items, and leave out rewrites that change outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_inputs import Inputs, like, size_of, split, taken, tensors
from paretopress.core.model_outputs import by_place, named_tensors
from paretopress.errors import ModelError, RewriteError, typed_line, users_line
from paretopress.intake.agreement import EXACT, Difference, coarsest, difference, tolerance
from paretopress.intake.part_calls import calls_of, part_differs
from paretopress.intake.plain_model import copied
from paretopress.intake.reparameterised import with_fused_blocks
from paretopress.intake.rewrites import Rules, in_plain_layers
from paretopress.intake.tracing import arguments, called, called_with, copies, output_names, trace

_LAYER_ITEMS = 2
_OTHER_SEED = 1  # a forward that draws at random draws something else
Found = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Faithful:
    """A traced model that was compared with the original, and the rewrites that were left out: part -> the reason."""

    module: fx.GraphModule
    left_out: Mapping[str, str]


def faithful(model: nn.Module, names: Sequence[str] | None, example: Inputs, items: Inputs) -> Faithful:
    """Return a model traced and rewritten, and compared with the original on real items.

    A rewrite that changes an output, or that stands in the way of tracing, is left out; the others are made.

    Args:
        model: the original; it is copied, and left as it is: its training flags, buffers and all.
        names: of the arguments of its forward that the inputs are; None takes the first ones. example: a batch to trace with.
        items: what is compared, in batches of the example's size.
    Raises: ModelError: the model does not trace, does not put out the same twice, or computes something else once it is traced; that
        says the layer where the two part.
    """
    original = Original(model, names, split(items, size_of(example)))
    first = original.attempt(example, frozenset())
    if first.agrees:
        return Faithful(first.traced(), {})
    at_fault = original.rewrites_at_fault(example)
    last = first
    for left_out in _exclusion_sets(at_fault, first.offered):
        last = original.attempt(example, left_out)
        if last.agrees:
            break
    else:
        original.refuse(last if last.module is not None else first, at_fault)
    last = _without_harmful_rewrites(original, example, last, at_fault)
    return Faithful(last.traced(), {name: at_fault.get(name, "with it the model computes something else") for name in last.left_out})


def _exclusion_sets(at_fault: Mapping[str, str], offered: Sequence[str]) -> Iterable[frozenset[str]]:
    """Return what is left out, one after another: what is at fault on its own; then all that could be at fault beside it."""
    alone = frozenset(at_fault)
    return dict.fromkeys(filter(None, (alone, alone | frozenset(offered))))


def _without_harmful_rewrites(original: Original, example: Inputs, last: Attempt, at_fault: Mapping[str, str]) -> Attempt:
    """Return the attempt with every rewrite that does no harm; each is tried in turn."""
    for name in sorted(last.left_out - at_fault.keys()):
        again = original.attempt(example, last.left_out - {name})
        if again.agrees:
            last = again
    return last


@dataclass(frozen=True, slots=True)
class Attempt:
    """A model traced without some rewrites: the module or what went wrong, and how it differs from the original."""

    left_out: frozenset[str]
    offered: tuple[str, ...]
    module: fx.GraphModule | None = None
    error: ModelError | None = None
    differs: Difference | None = None

    @property
    def agrees(self) -> bool:
        """Whether it puts out what the original does."""
        return self.module is not None and self.differs is None

    def traced(self) -> fx.GraphModule:
        """Return the module of one that traces."""
        assert self.module is not None
        return self.module


def agrees_on(model: nn.Module, names: Sequence[str] | None, module: fx.GraphModule, items: Inputs) -> str:
    """Return why a traced model does not do what the original does on some items, or "" where it does."""
    try:
        differs = Original(model, names, [items]).compared(module)
    except ModelError as error:
        return error.message
    return "" if differs is None else f"the traced model differs from the original by {differs}"


def evaluated_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model in eval mode. Raises: ModelError: it cannot be copied."""
    return copied(model).eval()


@dataclass(slots=True)
class Original:
    """A copy in eval mode of the model that was handed over, and what it puts out for real items, in single and double precision.

    Blocks of it that offer it are fused.
    """

    model: nn.Module
    names: Sequence[str] | None
    batches: Sequence[Inputs]
    _wanted: list[Found] = field(init=False)
    _exact: Sequence[Found] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.model = evaluated_copy(self.model)
        arguments(self.model, self.names, self.batches[0])
        given, parts = self.batches[0], copies(self.batches[0])
        try:
            self.model = with_fused_blocks(self.model, partial(called, self.model, self.names, taken(given, _LAYER_ITEMS)))
            self._wanted = self._run(self.model, self.names)
            again = named_tensors(called_with(self.model, self.names, parts, _OTHER_SEED))
        except Exception as error:  # whatever the user's forward raises
            raise ModelError(
                f"the model must take its inputs, but it raised {typed_line(error)}{users_line(error)}", "Do model and data fit?"
            ) from error
        if not all(map(torch.equal, parts, tensors(given))):
            raise ModelError("the model must not change its inputs in place, but it does", "Write x = x - mean instead of x -= mean.")
        varies = difference(self._wanted[0], again, tolerance(self.model))
        if varies is not None:
            hint = "Is there a dropout that stays on, F.dropout without training=self.training, or a state that its forward changes?"
            where = self._varying_part() or "its own forward"
            raise ModelError(f"the model must put out the same twice for the same inputs in eval mode, but got {varies}, at {where}", hint)

    def _varying_part(self) -> str:
        """Return the innermost part that puts out something else for the same inputs, "" if it is the whole model."""
        batch = taken(self.batches[0], _LAYER_ITEMS)
        names = [name for name, _ in self.model.named_modules() if name]
        runs = [calls_of(self.model, names, partial(called, self.model, self.names, batch, seed)) for seed in (0, _OTHER_SEED)]
        varying = []
        for name in names:
            for mine, theirs in zip(*(run[name] for run in runs), strict=False):
                inputs = [by_place(part for part in call[0] if isinstance(part, Tensor)) for call in (mine, theirs)]
                same = inputs[0].keys() == inputs[1].keys() and difference(inputs[0], inputs[1], EXACT) is None
                if same and difference(mine[2], theirs[2], EXACT) is not None:
                    varying.append(name)
                    break
        return max(varying, key=lambda name: name.count("."), default="")

    def attempt(self, example: Inputs, left_out: frozenset[str]) -> Attempt:
        """Return the model traced without some rewrites, compared with the original."""
        rules = Rules(left_out)
        try:
            module = trace(self.model, self.names, example, rules)
        except ModelError as error:
            return Attempt(left_out, tuple(rules.offered), error=error)
        attempt = Attempt(left_out, tuple(rules.offered), module)
        return replace(attempt, differs=self.compared(module))

    def compared(self, module: fx.GraphModule) -> Difference | None:
        """Return how a traced module differs from the original, None where it does not.

        In single precision outputs may be off by `tolerance`. Where they are further off, or the weights are of half precision, the two
        are run in double precision, if both can be: there they must agree to 1e-6, or it was not rounding that made the difference.
        """
        allowed = tolerance(self.model)
        try:
            outputs = self._run(module, None)
        except Exception as error:  # whatever its operators meet, on other items than it was traced with
            return Difference(f"{typed_line(error)} from it")
        found = _first_difference(self._wanted, outputs, module, allowed)
        if found is None and coarsest(self.model) <= torch.finfo(torch.float32).eps:
            return None
        exact = self._in_double(module)
        return found if exact is None else exact[0]

    def _in_double(self, module: fx.GraphModule) -> tuple[Difference | None] | None:
        """Return how the two differ in double precision, None where one does not run in it."""
        if self._exact is None:
            self._exact = _outputs_in_double(self.model, self.names, self.batches)
        found = _outputs_in_double(module, None, self.batches) if self._exact else ()
        return (_first_difference(self._exact, found, module, EXACT),) if self._exact and found else None

    def _run(self, model: nn.Module, names: Sequence[str] | None) -> list[Found]:
        return [named_tensors(called(model, names, batch)) for batch in self.batches]

    def rewrites_at_fault(self, example: Inputs) -> dict[str, str]:
        """Return the parts whose form in plain layers does not compute what they compute as they are called, with the reason."""
        copied = copy.deepcopy(self.model)
        forms = in_plain_layers(copied, lambda: called(copied, self.names, example))
        calls = calls_of(self.model, list(forms), lambda: called(self.model, self.names, self.batches[0]))
        at_fault = {}
        for name, make in forms.items():
            try:
                form = make().eval()
                off = next(filter(None, (part_differs(form, *call, tolerance(self.model)) for call in calls[name])), None)
                reason = "" if off is None else f"in plain layers it computes something else: {off}"
            except RewriteError as error:
                reason = error.message
            except Exception as error:  # arguments that it does not know, or another version of the library
                reason = f"in plain layers it raised {typed_line(error)}"
            if reason:
                at_fault[name] = reason
        return at_fault

    def refuse(self, attempt: Attempt, at_fault: Mapping[str, str]) -> NoReturn:
        """Raise ModelError: the model does not trace, or computes something else once it is traced."""
        told = "".join(f"; {name or 'the model'} is not put in plain layers: {reason}" for name, reason in at_fault.items())
        if attempt.error is not None or attempt.module is None:
            assert attempt.error is not None
            raise ModelError(f"{attempt.error.message}{told}", attempt.error.hint) from attempt.error
        where = self._first_divergence(attempt.module)
        raise ModelError(
            f"the traced model must compute what the model computes, but got {attempt.differs}; they part {where}{told}",
            "Does its forward depend on values, on a state that it changes, or on constants that it makes anew in each call?",
        )

    def _first_divergence(self, module: fx.GraphModule) -> str:
        """Return where the two first differ: at a layer, or behind the last one that they share."""
        names = list(dict.fromkeys(str(node.target) for node in module.graph.nodes if node.op == "call_module"))
        shared = [name for name in names if name in dict(self.model.named_modules())]
        batch = taken(self.batches[0], _LAYER_ITEMS)
        mine = calls_of(self.model, shared, lambda: called(self.model, self.names, batch))
        theirs = calls_of(module, shared, lambda: called(module, None, batch))
        last, count = "before the first layer", dict.fromkeys(shared, 0)
        for name in (str(node.target) for node in module.graph.nodes if node.op == "call_module" and str(node.target) in count):
            at, count[name] = count[name], count[name] + 1
            if at >= min(len(mine[name]), len(theirs[name])):
                return f"at {name}, which one of them calls more often"
            if difference(mine[name][at][2], theirs[name][at][2], tolerance(self.model)) is not None:
                return f"at {name}"
            last = f"behind {name}"
        return last


def _outputs_in_double(model: nn.Module, names: Sequence[str] | None, batches: Sequence[Inputs]) -> Sequence[Found]:
    """Return what a model puts out in double precision, nothing where it does not run in it."""
    widened = [like(batch, (part.double() if part.is_floating_point() else part for part in tensors(batch))) for batch in batches]
    try:
        doubled = copy.deepcopy(model).double()
        return [named_tensors(called(doubled, names, batch)) for batch in widened]
    except Exception:  # its forward names a type, or an operator has no kernel for doubles
        return ()


def _first_difference(wanted: Sequence[Found], found: Sequence[Found], module: fx.GraphModule | None, allowed: float) -> Difference | None:
    """Return how the outputs of some batches differ, those of a traced module from the original's, which may have names."""
    names = None if module is None else output_names(module)
    for one, other in zip(wanted, found, strict=True):
        if names is not None:
            other = dict(zip(names, other.values(), strict=False))
        elif module is not None:
            one = by_place(one.values())
        differs = difference(one, other, allowed)
        if differs is not None:
            return differs
    return None
