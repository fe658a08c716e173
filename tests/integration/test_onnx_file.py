"""A search over the formats of a file's layers, where there is no PyTorch model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from paretopress.api import start_run
from paretopress.config import parse_config
from paretopress.deploy.verify import verify_bundle
from paretopress.intake.model_spec import load_model
from paretopress.report.live import SilentReporter
from paretopress.run_folder import RunFolder
from paretopress.search.journal import open_study
from paretopress.search.records import Records


def test_search_leads_from_a_file_that_does_not_convert_to_a_verified_bundle(odd_file: Callable[[Path], Path], tmp_path: Path) -> None:
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
    model = load_model(odd_file(tmp_path).name, base=tmp_path)
    result = start_run(config, tmp_path / "run", SilentReporter(), model=model, data=tuple(data))
    plans = [candidate.plan for candidate in Records(open_study(RunFolder(tmp_path / "run").journal)).candidates()]
    assert all(not plan.kept and not plan.rank for plan in plans)
    assert any(plan.bits for plan in plans)
    assert result.front["points"]
    assert verify_bundle(result.export(tmp_path / "bundle")).max_difference < 1e-3
