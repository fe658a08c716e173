"""Images a second in recovery on a folder of JPEG photos, against a plain PyTorch loop with a DataLoader, and the memory of all processes.

    python benchmarks/recovery_speed.py [--photos 20000] [--steps 40] [--rounds 3] [--folder PLACE]

The photos (224x224) are random crops of those of imagenet300.npz (see imagenet300.py), written once to PLACE. Both train a ResNet-18 on
batches of one kind: 32 photos, decoded, cropped and flipped; distilled from a frozen copy; bfloat16 autocast where this processor has it,
channels-last, SGD, two threads. The plain loop has a DataLoader with two workers. In turns, each in a process of its own; what is timed
begins behind the first step and ends with the last. A figure is the median over the rounds. A quarter of an hour, with nothing else
running. Writes results/recovery_speed.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import imagenet300
import numpy as np
import torch
import torchvision
from PIL import Image
from results_file import Headline, write_result
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from wild_models import answer_of

from paretopress.compress.recover.finetune import Recovery, trains_faster_in_bf16
from paretopress.compress.recover.memory_format import placed
from paretopress.compress.recover.recipe import Recipe
from paretopress.core.model_inputs import channels_last
from paretopress.intake.datasets.data_spec import load_data
from paretopress.system.periodic import periodically
from paretopress.targets.lock import no_measurement

BATCH, SIZE, CLASSES, RATE = 32, 224, 10, 0.01
CPU = torch.device("cpu")
BAR = 0.95
Row = dict[str, Any]


def make_photos(folder: Path, count: int) -> None:
    """Write photos of 224x224 to folder/train/CLASS and folder/val/CLASS, unless they are there."""
    if (folder / f"{count}.made").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    dice = np.random.default_rng(0)
    sources, _ = imagenet300.whole_photos()
    for split, number in (("train", count), ("val", max(count // 50, 40))):
        for kind in range(CLASSES):
            (folder / split / f"class{kind}").mkdir(parents=True)
        for index in range(number):
            source = sources[int(dice.integers(len(sources)))]
            top, left = dice.integers(0, source.shape[0] - SIZE + 1), dice.integers(0, source.shape[1] - SIZE + 1)
            photo = Image.fromarray(np.ascontiguousarray(source[top : top + SIZE, left : left + SIZE]))
            photo.save(folder / split / f"class{index % CLASSES}" / f"{index}.jpg", quality=90)
    (folder / f"{count}.made").touch()


def network() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=CLASSES)


def plain_loop(train: Any, steps: int, seed: int, _: Path) -> float:
    """Return the images a second of a loop as one writes it."""
    torch.manual_seed(seed)
    bf16 = trains_faster_in_bf16(CPU)
    teacher, student = placed(network(), CPU).eval().requires_grad_(False), placed(network(), CPU).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    batches = iter(DataLoader(train, BATCH, shuffle=True, num_workers=2, drop_last=True))
    began = 0.0
    for _step in range(1 + steps):
        x, y = next(batches)
        x = channels_last(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                wanted = teacher(x)
            found = student(x)
        soft = F.kl_div((found.float() / 4.0).log_softmax(1), (wanted.float() / 4.0).log_softmax(1), reduction="batchmean", log_target=True)
        loss = 0.9 * 16.0 * soft + 0.1 * F.cross_entropy(found.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        began = began or time.perf_counter()
    return steps * BATCH / (time.perf_counter() - began)


def recovery(train: Any, steps: int, seed: int, folder: Path) -> float:
    """Return the images a second of a recovery."""
    ended: list[float] = []

    @contextmanager
    def step_ends() -> Iterator[None]:
        with no_measurement():
            yield
        ended.append(time.perf_counter())

    made = Recovery(network(), train, Recipe(RATE, BATCH, calibration_batches=0), step_ends, folder=folder)
    made.run(network(), temperature=4.0, alpha=0.9, steps=1 + steps, seed=seed)
    return steps * BATCH / (ended[-1] - ended[-1 - steps])


LOOPS = {"plain": plain_loop, "recovery": recovery}


@contextmanager
def memory_watched(found: list[float]) -> Iterator[None]:
    """Append the largest proportional memory (PSS) of this process and its children within the block, in MB."""
    seen = [0.0]
    try:
        with periodically(lambda: seen.append(tree_mb()), 0.25):
            yield
    finally:
        found.append(round(max(seen), 1))


def tree_mb() -> float:
    """Return the proportional memory of this process and of those that it started, in MB."""
    found, waiting = 0.0, ["self"]
    while waiting:
        pid = waiting.pop()
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found += sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += (task / "children").read_text().split()
        except OSError:  # it ended meanwhile
            continue
    return found


def measured(kind: str, place: Path, steps: int, seed: int) -> Row:
    """Return the images a second of a loop and the memory that it takes."""
    torch.set_num_threads(2)
    train, memory_mb = load_data(f"folder:{place}").train, list[float]()
    with memory_watched(memory_mb):
        speed = LOOPS[kind](train, steps, seed, place.parent)
    return {"images_s": round(speed, 1), "mb": memory_mb[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "paretopress_photos"))
    parser.add_argument("--one", nargs=3, metavar=("LOOP", "PLACE", "SEED"))
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one[0], Path(args.one[1]), args.steps, int(args.one[2]))))
        return
    rows: list[Row] = []
    for count in (args.photos // 10, args.photos):
        place = args.folder / str(count)
        make_photos(place, count)
        for seed in range(args.rounds):
            asked = {kind: [__file__, "--steps", args.steps, "--one", kind, place, seed] for kind in LOOPS}
            found = {kind: answer_of([str(word) for word in words], threads=2, seconds=600.0) for kind, words in asked.items()}
            plain, ours = found["plain"], found["recovery"]
            rows.append({
                "photos": count, "seed": seed, "plain_images_s": plain["images_s"], "recovery_images_s": ours["images_s"],
                "ratio": round(ours["images_s"] / plain["images_s"], 3), "plain_mb": plain["mb"], "recovery_mb": ours["mb"],
            })  # fmt: skip
            print(rows[-1], flush=True)
            write(rows, args.photos)


def write(rows: list[Row], photos: int) -> None:
    many = [row for row in rows if row["photos"] == photos] or rows
    few = [row for row in rows if row["photos"] != photos] or rows
    ratio, worst = median(row["ratio"] for row in many), min(row["ratio"] for row in many)
    grown = median(row["recovery_mb"] for row in many) / median(row["recovery_mb"] for row in few)
    headlines = [
        Headline("images a second in recovery against a plain loop, median", round(ratio, 3), "x", BAR, ratio >= BAR),
        Headline("the same, worst round", round(worst, 3), "x"),
        Headline("memory of all processes on ten times the photos", round(grown, 2), "x", 1.1, grown <= 1.1),
    ]
    write_result("recovery_speed", headlines, rows, threads=2)


if __name__ == "__main__":
    main()
