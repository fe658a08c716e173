"""A part of what benchmarks/coverage.py does: families whose models are small, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zoo
from one_of_each import ALL, plans

from paretopress.compress.apply import compress_module
from paretopress.config import parse_config
from paretopress.core.plan import Plan
from paretopress.lower.export import check_parity
from paretopress.run.factory import load_and_trace
from paretopress.runtimes.onnx_runtime import open_session
from paretopress.runtimes.runtime import SessionSettings
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.run_folder import create_run_folder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.local import LocalTarget
from paretopress.trial.pipeline import Pipeline, PipelineSettings

EACH = {"pruned", "quantised", "factorised", ALL}
FAMILIES = {
    "resnet20, option A": EACH,
    "mobilenet_v3_small": EACH,
    "shufflenet_v2_x1_0": EACH,
    "TinyBERT": EACH,
    "1-D CNN": EACH,
    "LSTM": EACH,
    "LSTM, two directions": EACH,
    "GRU": EACH,
    "lraspp_mobilenet_v3_large": EACH,
    "ssdlite320_mobilenet_v3_large, boxes not chosen": EACH,
    "ssdlite320_mobilenet_v3_large": EACH,
    "two inputs": EACH,
    "resnet18.onnx": EACH,
    "resnet18.onnx that does not convert": {"quantised", ALL},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plan_that_does_all_gives_a_file_that_computes_the_same(name: str, tmp_path: Path) -> None:
    family = zoo.FAMILIES[name]
    config = parse_config(
        {
            "budget": {"speedup": 1.02},
            "recovery": {"calibration_batches": 1, "batch_size": 16},
            "metric": {"name": family.metric, "decoder": family.decoder},
        },
        name,
    )
    intake, data = load_and_trace(config, zoo.model(name), getattr(zoo, family.data)())
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=16))
    made = plans(space)
    assert made.keys() == FAMILIES[name]
    pipeline = Pipeline(
        intake, data, LocalTarget(), create_run_folder(tmp_path / "run"), PipelineSettings(0, reduce_range=True, scoring_threads=1)
    )
    module = compress_module(intake.module, intake.graph, made[ALL]).module
    exact, rounded = tmp_path / "exact.onnx", tmp_path / "rounded.onnx"
    pipeline.lower(module, Plan(kept=made[ALL].kept, rank=made[ALL].rank), exact, StageTimer())
    assert check_parity(module, exact, pipeline.example) < 1e-3
    pipeline.lower(module, made[ALL], rounded, StageTimer())
    outputs = open_session(rounded, SessionSettings(threads=1)).run(None, dict(pipeline.feed))
    assert [output.shape[1:] for output in outputs] == [spec.shape for spec in intake.graph.outputs]
    assert all(np.isfinite(output).all() for output in outputs)
