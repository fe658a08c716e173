"""A search over the formats of a file's layers, where there is no PyTorch model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.utils.data import TensorDataset

from paretopress.api import start_run
from paretopress.config import parse_config
from paretopress.deploy.verify import verify_bundle
from paretopress.intake.model_spec import load_model
from paretopress.report.live import SilentReporter
from paretopress.search.storage.records import Records
from paretopress.search.storage.studies import open_study
from paretopress.system.run_folder import RunFolder


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_search_leads_to_a_bundle_when_a_file_does_not_convert(odd_file: Callable[[Path], Path], tmp_path: Path, batch: int | str) -> None:
    """Whatever batch the file takes: its items are no multiple of 3."""
    pytest.importorskip("onnx2torch")
    generator = torch.Generator().manual_seed(0)
    data = [TensorDataset(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % 4) for n in (32, 16, 16)]
    config = parse_config(
        {
            "budget": {"latency_ms": 1_000.0, "max_drop": 100.0},
            "time": {"trials": 3, "finalists": 1},
            "recovery": {"calibration_batches": 1, "batch_size": 8},
            "target": {"probe": False},
            "disk": {"cache_mb": 0},
        },
        "a test",
    )
    file = odd_file(tmp_path)
    _take_batch(file, batch)
    model = load_model(file.name, base=tmp_path)
    result = start_run(config, tmp_path / "run", SilentReporter(), model=model, data=tuple(data))
    plans = [candidate.plan for candidate in Records(open_study(RunFolder(tmp_path / "run").journal)).candidates()]
    assert all(not plan.kept and not plan.rank for plan in plans)
    assert any(plan.bits for plan in plans)
    assert result.front["points"]
    assert verify_bundle(result.export(tmp_path / "bundle")).max_difference < 1e-3
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["conditions"]["batch"] == manifest["conditions"]["session"]["batch"] == (batch if isinstance(batch, int) else 1)
    np.save(tmp_path / "in.npy", np.zeros((5, 3, 8, 8), np.float32))
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "bundle" / "run.py"), "--predict", str(tmp_path / "in.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 5


def _take_batch(path: Path, batch: int | str) -> None:
    """Have a file take this batch and no other."""
    model = onnx.load(path)
    if isinstance(batch, int):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, path)
