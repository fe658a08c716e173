"""`paretopress profile`: what each layer of the unchanged model costs on this host, and what each knob would save there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from paretopress.commands.terminal import JsonOption, TrustOption, out, print_json, verb_app
from paretopress.compress.apply import compress_module
from paretopress.config import parse_config
from paretopress.core.arrays import Feed
from paretopress.core.model_inputs import Inputs, feeds
from paretopress.core.plan import Plan
from paretopress.evaluators.profile import LayerOf, Profile, layer_by_module_path, profile_onnx
from paretopress.evaluators.rates import peak_gmacs
from paretopress.intake.datasets.data import Data, stack
from paretopress.intake.onnx_module import timed_feed
from paretopress.intake.trace import Intake
from paretopress.lower.export import export_onnx
from paretopress.lower.quantise import quantise_onnx
from paretopress.report.tables import ProfileRow, ProfileSums, profile_table
from paretopress.run.factory import load_and_trace
from paretopress.runtimes.runtime import SessionSettings
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.targets.capabilities import Capabilities, detect
from paretopress.targets.environment import environment

app = verb_app()

PROFILE_SCHEMA = 1
NO_LAYER = "(no layer)"
HALF = 0.5

Spent = Mapping[str | None, float]


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """A row per layer in the model's order, then one for what belongs to no layer (pooling, adds, reorders), and their sums."""

    rows: tuple[ProfileRow, ...]
    sums: ProfileSums

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"schema": PROFILE_SCHEMA, "sums": asdict(self.sums), "rows": [asdict(row) for row in self.rows]}


def profile_model(intake: Intake, data: Data, *, threads: int, runs: int) -> ModelProfile:
    """Return the measured costs of a model's layers.

    What a knob saves is measured too, in whole models: one with every layer in int8, one with every channel group at half its width
    (or the nearest that the target's channel step allows). What a removed branch saves is the time of its layers.
    """
    example, _ = stack(data.val, 2, 0)
    capabilities, graph = detect(environment()), intake.graph
    settings = SessionSettings(threads=threads)
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        layer_of = layer_by_module_path(layer.name for layer in graph.layers)
        names, outputs = (tuple(spec.name for spec in specs) for specs in (graph.inputs, graph.outputs))
        bench = _Bench(Path(temporary), example, names, outputs, settings, runs, layer_of, timed_feed(names, example, intake.module))
        path, profile = bench.exported(intake.module)
        spent = profile.by_layer()
        int8 = bench.quantised(path, [name for name in spent if name is not None], capabilities)
        half = bench.exported(compress_module(intake.module, graph, _half_width(intake, capabilities)).module)[1]
    saved_int8, saved_half = _saved(spent, int8.by_layer()), _saved(spent, half.by_layer())
    removable = {layer for branch in graph.branches for layer in branch.layers}
    rows = [
        ProfileRow(
            name=layer.name,
            kind=str(layer.kind),
            macs=layer.macs,
            params=layer.params,
            latency_ms=spent.get(layer.name),
            share=spent[layer.name] / profile.sum_ms if layer.name in spent else None,
            int8_saves_ms=saved_int8.get(layer.name),
            half_saves_ms=saved_half.get(layer.name),
            removal_saves_ms=spent.get(layer.name) if layer.name in removable else None,
        )
        for layer in graph.layers
    ]
    if None in spent:
        rest_ms = spent[None]
        rows.append(ProfileRow(NO_LAYER, "other", 0, 0, rest_ms, rest_ms / profile.sum_ms, saved_int8.get(None), saved_half.get(None)))
    return ModelProfile(tuple(rows), ProfileSums(profile.whole_ms, profile.sum_ms, profile.raw_sum_ms, peak_gmacs(settings)))


@dataclass(frozen=True, slots=True)
class _Bench:
    """Exports and profiles variants of one model."""

    folder: Path
    example: Inputs
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: SessionSettings
    runs: int
    layer_of: LayerOf
    feed: Feed

    def exported(self, module: nn.Module) -> tuple[Path, Profile]:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.onnx"
        export_onnx(module, self.example, path, self.names, self.outputs)
        return path, self._profile(path)

    def quantised(self, source: Path, layers: list[str], capabilities: Capabilities) -> Profile:
        path = self.folder / "int8.onnx"
        quantise_onnx(
            source, path, dict.fromkeys(layers, 8), list(feeds(self.names, [self.example])), reduce_range=capabilities.reduce_range
        )
        return self._profile(path)

    def _profile(self, path: Path) -> Profile:
        return profile_onnx(path, settings=self.settings, feed=self.feed, layer_of=self.layer_of, runs=self.runs)


def _half_width(intake: Intake, capabilities: Capabilities) -> Plan:
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=capabilities.channel_step))
    return Plan(kept=space.uniform_kept(HALF))


def _saved(before: Spent, after: Spent) -> Spent:
    return {name: spent - after[name] for name, spent in before.items() if name in after}


@app.command(epilog="Example: paretopress profile --model torchvision:resnet18 --data net.py:photos")
def profile(
    model: Annotated[str, typer.Option(help="As for search.")],
    data: Annotated[str, typer.Option(help="As for search.")],
    threads: Annotated[int, typer.Option(help="Threads of the session.")] = 1,
    runs: Annotated[int, typer.Option(help="Timed runs.")] = 50,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what each layer of a model costs on this host, and what int8, half the channels or its removal would save there."""
    intake, split = load_and_trace(parse_config({"model": model, "data": data, "trust": trust}, "the command line"))
    found = profile_model(intake, split, threads=threads, runs=runs)
    if as_json:
        print_json(found.to_json())
    else:
        out.print(profile_table(found.rows, found.sums))
