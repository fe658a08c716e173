"""Top-1 accuracy of tiny ONNX files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from paretopress.core.arrays import Arrays, Batch
from paretopress.errors import DataError, RunError, TargetLostError
from paretopress.evaluators import accuracy
from paretopress.evaluators.accuracy import module_accuracy, onnx_accuracies, onnx_accuracy
from paretopress.runtimes.runtime import OpenFile
from paretopress.targets.local import LocalTarget
from paretopress.tasks.classification import Classification, TopK


def _write(path: Path, op: str = "Flatten", batch: int | str = "batch") -> Path:
    """Write a file whose outputs are its three input pixels, or an elementwise function of them."""
    x = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, 1, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("Identity" if op == "Flatten" else op, ["flat"], ["y"])]
    graph = helper.make_graph(nodes, "tiny", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def _batch(predicted: list[int], labels: list[int]) -> Batch:
    return np.eye(3, dtype=np.float32)[predicted].reshape(-1, 3, 1, 1), np.array(labels)


@pytest.mark.parametrize("batch", ["batch", 1, 2, 8])
def test_onnx_accuracy_counts_images_when_batches_are_unequal(tmp_path: Path, batch: int | str) -> None:
    path = _write(tmp_path / "m.onnx", batch=batch)
    batches = [_batch([0, 1, 2], [0, 1, 1]), _batch([2], [2]), _batch([], []), _batch([0], [2])]
    assert onnx_accuracy(path, batches, threads=1) == pytest.approx(60.0)


def test_onnx_accuracy_runs_many_items_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    opened = accuracy.open_session

    class Watched:
        def __init__(self, session: ort.InferenceSession) -> None:
            self.session = session

        def run(self, names: Any, feed: Any) -> Any:
            seen.append(len(next(iter(feed.values()))))
            return self.session.run(names, feed)

        def get_inputs(self) -> Any:
            return self.session.get_inputs()

    monkeypatch.setattr(accuracy, "open_session", lambda *args, **options: Watched(opened(*args, **options)))
    labels = [row % 3 for row in range(70)]
    assert onnx_accuracy(_write(tmp_path / "m.onnx"), [_batch(labels, [0] * 70)], threads=1) == pytest.approx(100.0 * 24 / 70)
    assert seen == [32, 32, 6]


def test_onnx_accuracy_takes_an_output_that_is_the_same_for_every_item(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.onnx")
    model = onnx.load(path)
    grid = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2))
    model.graph.node.append(helper.make_node("Constant", [], ["grid"], value=grid))
    model.graph.output.append(helper.make_tensor_value_info("grid", TensorProto.FLOAT, [3, 2]))
    onnx.save(model, path)
    seen: list[Any] = []

    class Keeping(TopK):
        def update(self, outputs: Arrays, targets: Any) -> None:
            seen.append(outputs[1])
            super().update(outputs, targets)

    class Kept(Classification):
        def scorer(self) -> Keeping:
            return Keeping(1)

    assert onnx_accuracy(path, [_batch([0] * 70, [0] * 70)], threads=1, task=Kept()) == 100.0
    assert [output.tolist() for output in seen] == [[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]]


def test_onnx_accuracy_raises_when_there_is_no_image(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.onnx")
    with pytest.raises(DataError, match="at least one image"):
        onnx_accuracy(path, [], threads=1)


def test_onnx_accuracy_raises_when_labels_are_missing(tmp_path: Path) -> None:
    images, labels = _batch([0, 1], [0, 1])
    with pytest.raises(DataError, match=r"shape \(2,\)"):
        onnx_accuracy(_write(tmp_path / "m.onnx"), [(images, labels[:1])], threads=1)


def test_onnx_accuracy_raises_when_outputs_are_nan(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.onnx", op="Log")  # the logarithm of a negative pixel
    images, labels = _batch([0, 1], [0, 1])
    with pytest.raises(RunError, match=r"NaN at m\.onnx"):
        onnx_accuracy(path, [(-images, labels)], threads=1)


def test_onnx_accuracy_raises_when_images_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"must run its input.*at m\.onnx"):
        onnx_accuracy(_write(tmp_path / "m.onnx"), [(np.zeros((2, 4, 1, 1), np.float32), np.zeros(2, np.int64))], threads=1)


class OffByOne(LocalTarget):
    """A target whose kernels answer one class further on; counts the files that it opens."""

    opens = 0

    @contextmanager
    def opened(self, path: Path, *, beside_others: bool = False) -> Iterator[OpenFile]:
        type(self).opens += 1
        with super().opened(path, beside_others=beside_others) as file:
            yield replace(file, run=lambda feed: [np.roll(output, 1, axis=1) for output in file.run(feed)])


@pytest.mark.parametrize("batch", ["batch", 1, 2, 8])
def test_onnx_accuracy_counts_the_targets_answers_when_scored_there(tmp_path: Path, batch: int | str) -> None:
    path = _write(tmp_path / "m.onnx", batch=batch)
    batches, before = [_batch([0, 1, 2], [1, 2, 2]), _batch([2], [0])], OffByOne.opens
    assert onnx_accuracy(path, batches, threads=1, target=OffByOne()) == pytest.approx(75.0)
    assert OffByOne.opens == before + 1


def test_onnx_accuracy_lets_the_loss_of_a_target_pass_when_scored_there(tmp_path: Path) -> None:
    class Lost(LocalTarget):
        def opened(self, path: Path, *, beside_others: bool = False) -> Any:
            raise TargetLostError("the target must be in reach")

    path = _write(tmp_path / "m.onnx")
    with pytest.raises(TargetLostError):
        onnx_accuracy(path, [_batch([0], [0])], threads=1, target=Lost())
    with pytest.raises(TargetLostError):
        onnx_accuracies([path], [_batch([0], [0])], threads=1, target=Lost())


def test_onnx_accuracies_read_batches_once_for_several_files(tmp_path: Path) -> None:
    reads: list[int] = []

    def batches() -> Iterator[Batch]:
        for labels in ([1, 1, 1], [2, 2, 2]):
            reads.append(len(labels))
            yield _batch([0, 1, 2], labels)

    plain, fixed = _write(tmp_path / "plain.onnx"), _write(tmp_path / "fixed.onnx", batch=1)
    negated = _write(tmp_path / "negated.onnx", op="Neg")  # the first of the two other classes
    assert onnx_accuracies([plain, negated, fixed], batches(), threads=1) == pytest.approx([100 / 3, 100 / 6, 100 / 3])
    assert reads == [3, 3]


def test_onnx_accuracies_tell_why_one_file_has_none_and_score_the_others(tmp_path: Path) -> None:
    images, labels = _batch([0, 1], [0, 1])
    (tmp_path / "junk.onnx").write_bytes(b"no protobuf")
    files = [_write(tmp_path / "log.onnx", op="Log"), tmp_path / "junk.onnx", _write(tmp_path / "m.onnx")]
    nan, junk, score = onnx_accuracies(files, [(images, labels), (images - 0.5, labels)], threads=1)
    assert "must not be NaN" in str(nan)
    assert "INVALID_PROTOBUF" in str(junk)
    assert score == 100.0


def test_module_accuracy_agrees_with_the_file_of_the_same_function(tmp_path: Path) -> None:
    batches = [_batch([0, 1, 2, 2], [0, 1, 2, 0]), _batch([1], [0])]
    assert module_accuracy(nn.Flatten(), batches) == onnx_accuracy(_write(tmp_path / "m.onnx"), batches, threads=1) == 60.0


def test_module_accuracy_raises_when_there_is_no_image() -> None:
    with pytest.raises(DataError, match="at least one image"):
        module_accuracy(nn.Flatten(), [])


class Places(nn.Module):
    """Scores two classes by one value, and puts out what is the same for every item."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = x.flatten(1)[:, :2]
        return scores, torch.arange(6.0).reshape(3, 2), torch.tensor(1.0)


def test_module_accuracy_runs_many_items_in_pieces() -> None:
    seen: list[int] = []
    module = Places()
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    images = np.zeros((70, 3, 4, 4), np.float32)
    images[::2, 0, 0, 1] = 1.0
    labels = (np.arange(70) % 2 == 0).astype(np.int64)
    assert module_accuracy(module, [(images, labels)]) == 100.0
    assert seen == [32, 32, 6]
    large = np.zeros((20, 3, 256, 256), np.float32)
    seen.clear()
    module_accuracy(module, [(large, np.zeros(20, np.int64))])
    assert seen == [8, 8, 4]
