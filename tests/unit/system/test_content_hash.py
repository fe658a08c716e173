"""What changes the hash of a value, and what does not."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from paretopress.system.content_hash import Contents, joined


def of(value: object) -> str:
    return Contents().hexdigest(value)


def made(source: str, name: str = "f") -> Any:
    """Return what a source defines, as a user's file would."""
    space: dict[str, Any] = {"__name__": "user", "np": np, "torch": torch, "functools": functools}
    exec(source, space)
    return space[name]


def closing_over(value: object) -> Callable[[], object]:
    return lambda: value


@dataclass(frozen=True, slots=True)
class Slotted:
    a: int
    b: object = None


class Colour(Enum):
    RED = 1
    BLUE = 2


CHAIN = "def f0(x): return x * {factor}\n" + "\n".join(f"def f{i}(x): return f{i - 1}(x) + 1" for i in range(1, 600))
LOOP = "def odd(n): return n and even(n - {step})\ndef f(n): return odd(n)\ndef even(n): return not n or odd(n - 1)"
CLASS = "class Base:\n    def g(self): return {result}\nclass f(Base):\n    def h(self): return self.g()"

DIFFERENT: dict[str, tuple[object, object]] = {
    "a constant": (made("def f(x): return x * 2"), made("def f(x): return x * 3")),
    "a function called": (made("def f(x): return torch.relu(x)"), made("def f(x): return torch.sigmoid(x)")),
    "a default": (made("def f(x, k=2): return x * k"), made("def f(x, k=3): return x * k")),
    "a default by name": (made("def f(x, *, k=2): return x * k"), made("def f(x, *, k=3): return x * k")),
    "a closure": (closing_over(1), closing_over(2)),
    "a global": (made("k = 2\ndef f(x): return x * k"), made("k = 3\ndef f(x): return x * k")),
    "a global array": (made("k = np.ones(3)\ndef f(x): return x * k"), made("k = np.zeros(3)\ndef f(x): return x * k")),
    "a global of an inner function": (
        made("k = 2\ndef f(x): return [g(x) for g in [lambda y: y * k]]"),
        made("k = 3\ndef f(x): return [g(x) for g in [lambda y: y * k]]"),
    ),
    "a function far down": (made(CHAIN.format(factor=2), "f599"), made(CHAIN.format(factor=3), "f599")),
    "a function in a loop of calls": (made(LOOP.format(step=1)), made(LOOP.format(step=2))),
    "a method of a base class": (made(CLASS.format(result=1)), made(CLASS.format(result=2))),
    "an instance of another class": (made(CLASS.format(result=1))(), made(CLASS.format(result=2))()),
    "a cached function": (
        made("@functools.cache\ndef f(x): return x * 2"),
        made("@functools.cache\ndef f(x): return x * 3"),
    ),
    "an argument of a partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "a method's object": (Slotted(1).__repr__, Slotted(2).__repr__),
    "an attribute in a slot": (Slotted(1, [1]), Slotted(1, [2])),
    "a member": (Colour.RED, Colour.BLUE),
    "the sign of zero": (0.0, -0.0),
    "a type": (1, True),
    "a text for a number": ("1", 1),
    "a text for bytes": ("a", b"a"),
    "an order": ([1, 2], [2, 1]),
    "a nesting": ([[1], [2]], [[1, 2], []]),
    "a number of empty tuples": ([()], [(), ()]),
    "a column": ([(1, "a"), (2, "b")], [(1, "a"), (2, "c")]),
    "a type of list": ([1], (1,)),
    "a dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
    "a shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "a shape of an array": (np.zeros((2, 3)), np.zeros((3, 2))),
    "an element": (torch.tensor([1, 2]), torch.tensor([1, 3])),
    "an object in an array": (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
    "a setting of a module": (nn.LeakyReLU(0.01), nn.LeakyReLU(0.02)),
    "a hook of a module": (nn.ReLU(), nn.ReLU()),
}
DIFFERENT["a hook of a module"][1].register_forward_hook(lambda *_: None)  # type: ignore[attr-defined]


def circle() -> list[object]:
    found: list[object] = [1]
    found.append({"again": found})
    return found


def used() -> np.random.Generator:
    rng = np.random.default_rng(0)
    rng.random()
    return rng


SAME: dict[str, tuple[object, object]] = {
    "comments and places": (made("def f(x):\n    return x * 2"), made("# more\n\n\ndef f(x):\n    # twice\n    return x * 2")),
    "a global that is not read": (made("k = 2\ndef f(x): return x"), made("k = 3\ndef f(x): return x")),
    "an order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "an order in a set": ({"a", "b", "c"}, {"c", "b", "a"}),
    "draws of a generator": (np.random.default_rng(0), used()),
    "draws of Python's generator": (random.Random(1), random.Random(2)),
    "a value that holds itself": (circle(), circle()),
    "training or not": (nn.Linear(1, 1).requires_grad_(False), nn.Linear(1, 1).eval()),
    "layout in memory": (torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3).t().contiguous().t()),
    "an ordered dict": (OrderedDict(a=1), OrderedDict(a=1)),
}
for layer in SAME["training or not"]:
    nn.init.ones_(layer.weight), nn.init.ones_(layer.bias)  # type: ignore[attr-defined]


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_hexdigest_differs_when_values_do(pair: tuple[object, object]) -> None:
    one, two = pair
    assert of(one) == of(one)
    assert of(one) != of(two)


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME.keys())
def test_hexdigest_is_the_same_when_only_what_decides_nothing_differs(pair: tuple[object, object]) -> None:
    one, two = pair
    assert of(one) == of(two)


def test_remark_names_what_could_not_be_looked_into_when_it_is_met() -> None:
    contents = Contents()
    contents.digest([1, iter([2]), (n for n in range(3))])
    assert contents.remark() == " (builtins.generator not looked into)"
    contents = Contents()
    contents.digest([1, "a", {"b": np.ones(2)}])
    assert contents.remark() == ""


def test_joined_differs_when_parts_end_elsewhere() -> None:
    assert joined(b"ab", b"c") != joined(b"a", b"bc")


PROGRAM = """
import sys, torch
sys.path.insert(0, ".")
import user
from paretopress.system.content_hash import Contents
print(Contents().hexdigest([user.Net(), user.score, user.TABLE]))
"""
USER = """
import torch
from torch import nn
TABLE = {"c": {1, 2, 3}, "a": frozenset({"x", "y", "z"}), "b": object}
NAMES = {"one", "two", "three"}
def score(x):
    return sum(1 for name in x if name in NAMES or name in {"four", "five", "six"})
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.names, self.fn = nn.Conv2d(1, 1, 1, bias=False), NAMES, lambda x: score(x)
        nn.init.ones_(self.conv.weight)
        self.register_forward_hook(lambda *_: None)
    def forward(self, x):
        return self.fn(self.conv(x))
"""


@pytest.mark.slow
def test_hexdigest_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    said = [process.communicate()[0] for process in processes]
    assert len(said[0]) == 65
    assert said[0] == said[1]
