"""Images a second in recovery on a folder of JPEG photos, against a plain PyTorch loop with a DataLoader, and the memory of all processes.

    python benchmarks/recovery_speed.py [--photos 20000] [--steps 40] [--rounds 3] [--folder PLACE]

The photos (224x224) are random crops of those of imagenet300.npz (see imagenet300.py), written once to PLACE. Both train a ResNet-18 on
batches of one kind: 32 photos, decoded, cropped and flipped; distilled from a frozen copy; bfloat16 autocast where this processor has it,
channels-last, SGD, two threads. The plain loop has a DataLoader with two workers. In turns; every round reads photos that it has not seen
before. A figure is the median over the rounds. Ten minutes, with nothing else running. Writes results/recovery_speed.json.
"""

from __future__ import annotations

import argparse
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


def plain_loop(train: Any, steps: int, seed: int) -> float:
    """Return the images a second of a loop as one writes it, the start of the loader's processes left out."""
    torch.manual_seed(seed)
    bf16 = trains_faster_in_bf16(CPU)
    teacher, student = placed(network(), CPU).eval().requires_grad_(False), placed(network(), CPU).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    batches = iter(DataLoader(train, BATCH, shuffle=True, num_workers=2, drop_last=True))
    started = 0.0
    for step in range(1 + steps):
        x, y = next(batches)
        if step == 1:
            started = time.perf_counter()
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
    return steps * BATCH / (time.perf_counter() - started)


def recovery(train: Any, steps: int, seed: int, folder: Path) -> float:
    """Return the images a second of a recovery, from its first step to its last."""
    made = Recovery(network(), train, Recipe(RATE, BATCH, calibration_batches=0), no_measurement, folder=folder)
    report = made.run(network(), temperature=4.0, alpha=0.9, steps=1 + steps, seed=seed)
    return (1 + steps) * BATCH / report.duration_s


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "paretopress_photos"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    rows: list[Row] = []
    for count in (args.photos // 10, args.photos):
        place = args.folder / str(count)
        make_photos(place, count)
        train = load_data(f"folder:{place}").train
        for seed in range(args.rounds):
            plain_mb, ours_mb = list[float](), list[float]()
            with memory_watched(plain_mb):
                plain = plain_loop(train, args.steps, seed)
            with memory_watched(ours_mb):
                ours = recovery(train, args.steps, seed, args.folder)
            rows.append({
                "photos": count, "seed": seed, "plain_images_s": round(plain, 1), "recovery_images_s": round(ours, 1),
                "ratio": round(ours / plain, 3), "plain_mb": plain_mb[0], "recovery_mb": ours_mb[0],
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
