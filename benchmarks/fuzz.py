"""Random plans on random networks: each ends as a file that computes what it should, or as a typed error before any training.

    python benchmarks/fuzz.py [--count 300] [--first 0]

For every network: channels are pruned and branches removed, and the result must put out what the original does with the same channels
silenced and the same sums left to their skips, worked out node by node. Then a whole plan, with ranks and bits, is lowered: the float file
must agree with torch within 0.1 %, and the quantised file must stay near it. Writes results/fuzz.json.
About four minutes for 300 on one core.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from random_networks import INPUT_SHAPE, RandomNetwork
from results_file import Headline, write_result
from torch import Tensor, fx

from paretopress.compress.apply import compress_module
from paretopress.core.model_graph import INPUT, ModelGraph
from paretopress.core.plan import Plan
from paretopress.errors import ParetopressError
from paretopress.intake.trace import Intake, take_in
from paretopress.lower.export import export_onnx
from paretopress.lower.quantise import quantise_onnx
from paretopress.spaces.space import SearchSpace, SpaceOptions

# removing a channel and silencing it differ by rounding alone, as a share of the largest output
SAME = 1e-3
# what rounding to 8 and 4 bits may change, as a share of the norm of what distinguishes one input's outputs from another's
NEAR = 0.2
IMAGES = 8


class WrongModelError(AssertionError):
    """A model that computes something else than its plan says."""


class _Reference(fx.Interpreter):
    """Runs the original with silenced channels; the sum behind a removed branch puts out its skip."""

    def __init__(self, module: fx.GraphModule, skips: Mapping[str, int]) -> None:
        super().__init__(module)
        self._skips = skips

    def run_node(self, n: fx.Node) -> object:
        if n.name in self._skips:
            return self.env[n.all_input_nodes[self._skips[n.name]]]
        return super().run_node(n)


def reference(intake: Intake, plan: Plan, outputs: Mapping[str, tuple[int, ...]], x: Tensor) -> Tensor:
    """Return what the original puts out when all but the kept `outputs` of each module are silent and the plan's branches are left out."""
    module = copy.deepcopy(intake.module)
    for name, kept in outputs.items():
        part = module.get_submodule(name)
        for parameter in part.parameters(recurse=False):
            silent = torch.ones(len(parameter), dtype=torch.bool)
            silent[list(kept)] = False
            with torch.no_grad():
                parameter[silent] = 0.0
    skips = {branch.add: branch.skip_arg for branch in intake.graph.removed_branches(plan.kept)}
    with torch.inference_mode():
        return _Reference(module, skips).run(x)


def random_plan(space: SearchSpace, draw: np.random.Generator) -> Plan:
    """Return a plan with every variable at one of its values, the unchanged one half of the time."""
    params = space.defaults()
    for variable in space.variables:
        if draw.random() < 0.5:
            params[variable.name] = variable.sample(draw)
    return space.plan(params)


def images(seed: int) -> Tensor:
    """Return (N, 3, 16, 16) noise of different contrast, brightness and colour, so that the outputs of two images differ as well."""
    generator = torch.Generator().manual_seed(seed)
    contrast = 0.2 + 3.0 * torch.rand(IMAGES, 1, 1, 1, generator=generator)
    colour = 2.0 * torch.randn(IMAGES, INPUT_SHAPE[0], 1, 1, generator=generator)
    return contrast * torch.randn(IMAGES, *INPUT_SHAPE, generator=generator) + colour


def checked(seed: int) -> dict[str, object]:
    """Return what became of one network and its plan; raises WrongModelError, or whatever the package let through."""
    draw, network = np.random.default_rng(seed), RandomNetwork(seed)
    row: dict[str, object] = {"seed": seed, "blocks": network.description()}
    x = images(seed)
    try:
        intake = take_in(network, x)
        space = SearchSpace(intake.graph, SpaceOptions(channel_step=int(draw.choice((1, 4, 8))), min_share=0.0))
        plan = random_plan(space, draw)
        row |= found(intake.graph)
        with torch.inference_mode():
            _same("the traced module", intake.module(x), network(x))
        pruned = compress_module(intake.module, intake.graph, Plan(kept=plan.kept))
        with torch.inference_mode():
            _same("the pruned module", pruned.module(x), reference(intake, plan, pruned.kept.outputs, x))
        row["rounding"] = round(lowered(intake, plan, x), 4)
    except ParetopressError as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    return row


def lowered(intake: Intake, plan: Plan, x: Tensor) -> float:
    """Return how far the quantised file of a plan is from its float file, as a share of how far its inputs are apart; 0 without bits."""
    module = compress_module(intake.module, intake.graph, plan).module
    bits = intake.graph.bits_by_layer(plan.bits, {name for name, _ in module.named_modules()})
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        exact, rounded = Path(folder, "float.onnx"), Path(folder, "quantised.onnx")
        export_onnx(module, x, exact)
        with torch.inference_mode():
            _same("the float file", torch.from_numpy(_outputs(exact, x)), module(x))
        if not bits:
            return 0.0
        quantise_onnx(exact, rounded, bits, [{INPUT: x.numpy()}], reduce_range=False)
        wanted, got = (_outputs(path, x) for path in (exact, rounded))
        spread = np.linalg.norm(wanted - wanted.mean(0))
        away = float(np.linalg.norm(got - wanted) / spread)
        if not away <= NEAR:
            unfused = np.linalg.norm(_outputs(rounded, x, fused=False) - wanted) / spread
            raise WrongModelError(
                f"the quantised file is {away:.2f} of the outputs' spread away from the float file, without the runtime's fusions "
                f"{unfused:.2f}; the spread is {spread / np.linalg.norm(wanted):.2f} of the outputs' size"
            )
    return away


def found(graph: ModelGraph) -> dict[str, Any]:
    """Return how much of a network can be changed."""
    return {"layers": len(graph.layers), "channel_groups": len(graph.channel_groups), "branches": len(graph.branches)}


def _outputs(path: Path, x: Tensor, *, fused: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # initialisers that its own optimisation leaves unused are no news
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: x.numpy()})[0])


def _same(what: str, got: Tensor, wanted: Tensor) -> None:
    away = float((got - wanted).abs().max() / wanted.abs().max()) if got.shape == wanted.shape else float("inf")
    if not away <= SAME:
        raise WrongModelError(f"{what} differs by {away:.2g} of the largest output from what it should put out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    started, rows, wrong = time.monotonic(), [], []
    for seed in range(args.first, args.first + args.count):
        try:
            rows.append(checked(seed))
        except Exception as error:  # anything that is not the package's own is a defect
            rows.append({"seed": seed, "blocks": RandomNetwork(seed).description(), "wrong": f"{type(error).__name__}: {error}"})
            wrong.append(rows[-1])
            print(rows[-1], flush=True)
    errors = Counter(str(row["error"]).split(":")[0] for row in rows if "error" in row)
    away = sorted(float(row["rounding"]) for row in rows if row.get("rounding"))
    usual = round(away[int(0.95 * len(away))], 3) if away else None
    headlines = [
        Headline("networks whose plan gave a file that computes what it should", sum("rounding" in row for row in rows), f"of {len(rows)}"),
        Headline("networks refused with a typed error before training", sum(errors.values()), f"of {len(rows)}"),
        Headline("networks with a silently wrong model or another error", len(wrong), f"of {len(rows)}", 0, not wrong),
        Headline("channel groups found", round(np.mean([row.get("channel_groups", 0) for row in rows]), 1), "a network, mean"),
        Headline("quantised files: distance from float, 95th percentile", usual, "of the outputs' spread"),
    ]
    write_result("fuzz", headlines, rows, errors=dict(errors), duration_s=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
