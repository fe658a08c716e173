"""What a training step of mobile networks takes: bfloat16 autocast alone, with slow depthwise layers in float32, and float32 alone.

    python benchmarks/training_step.py [--rounds 7] [--threads 2]

Random weights and inputs, channels-last, forward, backward and an SGD step; the three in turns, a figure is the median over the rounds.
The file says which layers are slow: paretopress/compress/recover/depthwise_precision.py. Two minutes, with nothing else running. Writes
results/training_step.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import canvases
import torch
import torchvision
from results_file import Headline, write_result
from torch import nn

from paretopress.compress.recover.depthwise_precision import in_float32, slow_in_bf16
from paretopress.compress.recover.finetune import trains_faster_in_bf16
from paretopress.compress.recover.memory_format import placed
from paretopress.core.model_inputs import channels_last, outputs_of

NAME = "training_step"
CPU = torch.device("cpu")
# torchvision's name -> (pixels of a side, items of a batch)
NETWORKS = {
    "mobilenet_v2": (224, 8),
    "mobilenet_v3_small": (224, 16),
    "efficientnet_b0": (224, 8),
    "mnasnet1_0": (224, 8),
    "shufflenet_v2_x1_0": (224, 16),
    "convnext_tiny": (96, 8),
    "resnet18": (96, 16),
}


def networks() -> Iterator[tuple[str, nn.Module, int, int]]:
    """Yield a name, a network, the pixels of a side and the items of a batch."""
    yield "canvas detector", canvases.detector(), canvases.SIZE, 32
    yield "mobilenet_v2, half its width", torchvision.models.mobilenet_v2(width_mult=0.5), 32, 128
    for name, (size, batch) in NETWORKS.items():
        yield name, torchvision.models.get_model(name, weights=None), size, batch


def seconds(network: nn.Module, x: torch.Tensor, *, bf16: bool, context: AbstractContextManager[None]) -> float:
    """Return the seconds of one step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    started = time.perf_counter()
    with context:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = outputs_of(network(x))
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
        optimizer.step()
    return time.perf_counter() - started


def measured(network: nn.Module, x: torch.Tensor, rounds: int) -> Mapping[str, float]:
    """Return the median seconds of a step by what is in bfloat16."""
    slow = slow_in_bf16(network)
    found: dict[str, list[float]] = {"bf16": [], "mixed": [], "fp32": []}
    for _ in range(rounds + 1):
        found["bf16"].append(seconds(network, x, bf16=True, context=nullcontext()))
        found["mixed"].append(seconds(network, x, bf16=True, context=in_float32(slow, CPU)))
        found["fp32"].append(seconds(network, x, bf16=False, context=nullcontext()))
    return {name: median(taken[1:]) for name, taken in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name, network, size, batch in networks():
        placed(network, CPU).train()
        taken = measured(network, channels_last(torch.rand(batch, 3, size, size)), args.rounds)
        rows.append({"network": name, "pixels": size, "batch": batch, **{f"{key}_s": value for key, value in taken.items()}})
        print(rows[-1], flush=True)
        gains = [row["bf16_s"] / row["mixed_s"] for row in rows]
        headlines = [
            Headline("median gain over bfloat16 alone", round(median(gains), 2), "x"),
            Headline("least gain over bfloat16 alone", round(min(gains), 2), "x"),
            Headline("largest gain over bfloat16 alone", round(max(gains), 2), "x"),
        ]
        write_result(NAME, headlines, rows, rounds=args.rounds, bf16_pays=trains_faster_in_bf16(CPU))


if __name__ == "__main__":
    main()
