"""Identity of a traced model: hashes of its code and of its tensors."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn

from paretopress.intake.onnx_module import OnnxGraph
from paretopress.system.content_hash import Contents, joined

CODE, WEIGHTS = "model code", "model weights"


def model_parts(module: fx.GraphModule) -> dict[str, str]:
    """Return the hashes of a traced model's code and of its tensors, the same in every process.

    The code is the graph: operations, functions and constants; of every module that it calls, the class, its settings, and where the
    class is the user's, its functions. The tensors are all that the graph reaches, buffers and constants as well.
    """
    contents = _Traced()
    for node in module.graph.nodes:
        contents.node(node, module)
    code = contents.hexdigest(contents.nodes)
    return {CODE: code + contents.remark(), WEIGHTS: joined(*contents.tensors).hex()}


class _Traced(Contents):
    """Keeps tensors apart; nodes are named by their places."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[bytes] = []
        self.nodes: list[object] = []
        self._places: dict[fx.Node, int] = {}

    def node(self, node: fx.Node, module: fx.GraphModule) -> None:
        """Take the next node of a module's graph."""
        target: object = node.target
        held = attrgetter(str(target))(module) if node.op in ("call_module", "get_attr") else None
        self.nodes.append((node.op, self.digest(target), self.digest(held), self._argument(node.args), self._argument(node.kwargs)))
        self._places[node] = len(self._places)

    def _argument(self, value: Any) -> bytes:
        placed: Any = lambda node: _Place(self._places[node])  # noqa: E731  # what fx asks for is another node
        return self.digest(fx.node.map_arg(value, placed))

    def held(self, value: object) -> bytes:
        """Return the hash of a value that is met for the first time."""
        if isinstance(value, _Place):
            return joined(b"node", str(value.number).encode())
        return super().held(value)

    def tensor(self, value: Tensor) -> bytes:
        """Keep a tensor's hash, and return what names its place among the tensors."""
        self.tensors.append(super().tensor(value))
        return joined(b"tensor", str(len(self.tensors)).encode())

    def module(self, value: nn.Module) -> bytes:
        """Return the hash of a module; a file's is its bytes, which its session was opened with."""
        return joined(b"file", self.tensor(value.get_buffer("content"))) if isinstance(value, OnnxGraph) else super().module(value)


class _Place:
    """Stands for a node in the arguments of another."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number
