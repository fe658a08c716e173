"""Train a CIFAR-10 (JPEG) model that the benchmarks compress; writes benchmarks/weights/cifar10_MODEL.safetensors.

    export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000
    python benchmarks/train_cifar10.py resnet20                                             # 16 epochs: 84.5 % on test
    python benchmarks/train_cifar10.py resnet20 --warm-restart --epochs 10 --peak 0.1       # the committed weights
    python benchmarks/train_cifar10.py mobilenet_v2_050 --threads 1 --peak 0.1 --epochs 8 --first-sizes 16 16 16 24 24 24

The two allocator settings keep freed activations in the process: the ResNet-20 trains at 491 against 350 images a second on two cores.
The record of the last training lies in benchmarks/results/cifar10_MODEL_training.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from cifar10 import HERE, MODELS, data, trained, weights_file
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset


@torch.inference_mode()
def accuracy(model: nn.Module, dataset: Dataset) -> float:
    """Return top-1 accuracy in percent; items are tensors, or dicts by the names of the model's arguments."""
    model.eval()
    right = 0
    for x, y in DataLoader(dataset, 500):
        logits = model(**x) if isinstance(x, dict) else model(x)
        right += int((logits.argmax(1) == y).sum())
    return 100.0 * right / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--peak", type=float, default=0.3, help="highest learning rate of the cycle")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--first-sizes", type=int, nargs="+", default=[], help="photo sizes of the first epochs; small ones save time")
    parser.add_argument("--warm-restart", action="store_true", help="start from the weights on disk")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train, val, test = data()
    loader = DataLoader(train, 128, shuffle=True, drop_last=True)
    model = (trained(args.model) if args.warm_restart else MODELS[args.model]()).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.peak, total_steps=args.epochs * len(loader), pct_start=0.2)
    started = time.monotonic()
    for epoch in range(args.epochs):
        model.train()
        size = args.first_sizes[epoch] if epoch < len(args.first_sizes) else None
        losses = 0.0
        for x, y in loader:
            x = x if size is None else nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
            loss = nn.functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += loss.item()
        told = f"loss {losses / len(loader):.3f}  val {accuracy(model, val):.2f} %  {time.monotonic() - started:.0f} s"
        print(f"epoch {epoch + 1}/{args.epochs}  {told}", flush=True)
    path = weights_file(args.model)
    path.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    record = {
        "schema": 1,
        "command": " ".join(["python", "benchmarks/train_cifar10.py", *sys.argv[1:]]),
        "epochs": args.epochs,
        "seed": args.seed,
        "val_accuracy": accuracy(model, val),
        "test_accuracy": accuracy(model, test),
        "duration_s": round(time.monotonic() - started, 1),
        "cpu_s": round(time.process_time(), 1),
    }
    (HERE / "results" / f"cifar10_{args.model}_training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(record)


if __name__ == "__main__":
    main()
