"""Train the small models that real_models.py compresses; writes benchmarks/weights/NAME.safetensors.

    python benchmarks/train_small.py sst2_minilm_head      # a Linear on MiniLM as it is; three minutes
    python benchmarks/train_small.py fashion_lstm          # five epochs; ten minutes
    python benchmarks/train_small.py fashion_residual      # eight epochs; eight minutes

The record of the last training lies in benchmarks/results/NAME_training.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import fashion
import fashion_photos
import sst2
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_cifar10 import accuracy

from paretopress.system.atomic_files import write_json

THREADS = 1
Trained = tuple[nn.Module, nn.Module, dict[str, object]]


def scores(model: nn.Module, val: Dataset, test: Dataset) -> dict[str, float]:
    """Return accuracies in percent."""
    return {"val_accuracy": round(accuracy(model, val), 2), "test_accuracy": round(accuracy(model, test), 2)}


def sst2_minilm_head() -> Trained:
    """Return the classifier, the part that was trained, and its record: a logistic regression by L-BFGS on 6,920 sentences."""
    model = sst2.Classifier().eval()
    train, val, test = sst2.data()
    with torch.inference_mode():
        seen = [(model.features(**x), y) for x, y in DataLoader(train, 100)]
    features, labels = (torch.cat(part).clone() for part in zip(*seen, strict=True))
    optimizer = torch.optim.LBFGS(model.fc.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    decay = 1e-3

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model.fc(features), labels) + decay * model.fc.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return model, model.fc, {"weight_decay": decay} | scores(model, val, test)


def fashion_lstm(epochs: int = 5, peak: float = 3e-3) -> Trained:
    """Return the LSTM twice, and its record."""
    model = fashion.RowReader()
    train, val, test = fashion.data()
    loader = DataLoader(train, 128, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), peak, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: val {accuracy(model, val):.2f} %", flush=True)
    return model, model, {"epochs": epochs, "peak": peak} | scores(model, val, test)


def fashion_residual(epochs: int = 8, peak: float = 0.2) -> Trained:
    """Return the residual network twice, and its record."""
    model = fashion_photos.Residual().to(memory_format=torch.channels_last)
    train, val, test = fashion_photos.data()
    loader = DataLoader(train, 128, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), peak, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            flipped = torch.where((torch.rand(len(x)) < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(flipped.contiguous(memory_format=torch.channels_last)), y).backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: val {accuracy(model, val):.2f} %", flush=True)
    model = model.to(memory_format=torch.contiguous_format)
    return model, model, {"epochs": epochs, "peak": peak} | scores(model, val, test)


TRAININGS: dict[str, Callable[[], Trained]] = {
    "sst2_minilm_head": sst2_minilm_head,
    "fashion_lstm": fashion_lstm,
    "fashion_residual": fashion_residual,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(TRAININGS))
    name = parser.parse_args().name
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    started = time.monotonic()
    _, part, record = TRAININGS[name]()
    save_file(part.state_dict(), sst2.HERE / "weights" / f"{name}.safetensors")
    record |= {"command": f"python benchmarks/train_small.py {name}", "threads": THREADS, "duration_s": round(time.monotonic() - started)}
    write_json(sst2.HERE / "results" / f"{name}_training.json", record)
    print(record)


if __name__ == "__main__":
    main()
