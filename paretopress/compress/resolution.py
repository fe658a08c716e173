"""The resolution at which a model runs: a module at its input that scales images down, and what is lowered without it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_graph import TensorSpec
from paretopress.core.model_inputs import Inputs, like, tensors
from paretopress.core.resampling import IMAGE_AXES, scaled_side, weights

_PREFIX = "resized_"


class Resize(nn.Module):
    """Scales images (N, C, H, W) to a share of their height and width; what `core.resampling.resized` does, in torch."""

    def __init__(self, height: int, width: int, share: float) -> None:
        super().__init__()
        self.share = share
        for name, size in (("rows", height), ("columns", width)):
            self.register_buffer(name, torch.tensor(weights(size, scaled_side(size, share))), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled images."""
        rows, columns = self.get_buffer("rows"), self.get_buffer("columns")
        return rows.to(x.dtype) @ x @ columns.to(x.dtype).T


def is_image(spec: TensorSpec) -> bool:
    """Return whether an input holds images, which have a resolution: (C, H, W) of floats."""
    return len(spec.shape) == IMAGE_AXES - 1 and spec.dtype.startswith("float")


def resize_inputs(module: fx.GraphModule, inputs: Sequence[TensorSpec], share: float) -> None:
    """Have a traced module scale its images to a share of their height and width before anything else, in place."""
    _insert(module, {at: Resize(spec.shape[1], spec.shape[2], share) for at, spec in enumerate(inputs) if is_image(spec)})


def resized_like(module: fx.GraphModule, other: nn.Module) -> fx.GraphModule:
    """Return a copy of a traced module that scales its inputs as another does."""
    found = {int(name.removeprefix(_PREFIX)): copy.deepcopy(part) for name, part in other.named_children() if isinstance(part, Resize)}
    made = copy.deepcopy(module)
    _insert(made, found)
    return made


def _insert(module: fx.GraphModule, resizes: Mapping[int, Resize]) -> None:
    """Put modules between the inputs of those numbers and all that reads them."""
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    for at, resize in resizes.items():
        module.add_submodule(f"{_PREFIX}{at}", resize)
        with module.graph.inserting_after(places[-1]):
            made = module.graph.call_module(f"{_PREFIX}{at}", (places[at],))
        places[at].replace_all_uses_with(made, delete_user_cb=lambda user, made=made: user is not made)
    module.recompile()


def resolution_of(module: nn.Module) -> float:
    """Return the share of their height and width to which a module scales its images; 1 where it takes them as they are."""
    return next((part.share for part in module.children() if isinstance(part, Resize)), 1.0)


def without_resize(module: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
    """Return a copy of a module that takes scaled images, and the example as it takes it; both as they are where it scales none."""
    if not isinstance(module, fx.GraphModule) or resolution_of(module) == 1.0:
        return module, example
    bare, parts = copy.deepcopy(module), list(tensors(example))
    for index, node in enumerate([node for node in bare.graph.nodes if node.op == "placeholder"]):
        for user in [user for user in node.users if isinstance(_called(bare, user), Resize)]:
            with torch.no_grad():
                parts[index] = _called(bare, user).cpu()(parts[index])
            user.replace_all_uses_with(node)
            bare.graph.erase_node(user)
            bare.delete_submodule(str(user.target))
    bare.recompile()
    return bare, like(example, parts)


def _called(module: nn.Module, node: fx.Node) -> nn.Module:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else nn.Identity()
