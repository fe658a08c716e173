"""The probe's models: that they are what the product's quantiser writes, and that the runtime runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from paretopress.lower.quantise import quantise_onnx
from paretopress.targets.capabilities import Family
from paretopress.targets.local import LocalTarget
from paretopress.targets.probe.probe_models import (
    S8S8,
    U8S8,
    U8S8_CENTRED,
    big_chain,
    big_chain_macs,
    bottleneck_chain,
    extreme_conv,
    family_chain,
    feed_for,
    float16_chain,
    int4_linear_chain,
    residual_chain,
    step_chain,
    step_macs,
)

LAYER_OPS = ("Conv", "Gemm")


def shape_of(model: onnx.ModelProto) -> tuple[Counter[str], list[int]]:
    """Return the operators, and the zero-points of what is not constant, in the order of the graph and rounded to halves of the range."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantisers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    zero_points = sorted(0 if int(constants[node.input[2]]) == 0 else 128 for node in quantisers)
    return Counter(node.op_type for node in model.graph.node), zero_points


@pytest.mark.parametrize(
    ("make", "make_quantised"),
    [
        *(
            pytest.param(
                partial(family_chain, family, relu=relu), partial(family_chain, family, relu=relu, pattern=U8S8), id=f"{family} {relu}"
            )
            for family in (Family.DENSE, Family.POINTWISE, Family.DEPTHWISE, Family.LINEAR)
            for relu in (False, True)
        ),
        pytest.param(partial(residual_chain, None), partial(residual_chain, U8S8), id="residual"),
    ],
)
def test_chains_have_the_pattern_of_the_product_when_quantised(
    make: Callable[[], onnx.ModelProto], make_quantised: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    model = make()
    onnx.save(model, tmp_path / "float.onnx")
    layers = {node.name: 8 for node in model.graph.node if node.op_type in LAYER_OPS}
    batches = [feed_for(model, np.random.default_rng(0))]
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", layers, batches, reduce_range=False)
    assert shape_of(make_quantised()) == shape_of(onnx.load(tmp_path / "int8.onnx"))


@pytest.mark.parametrize(
    "make",
    [
        partial(family_chain, Family.DENSE, relu=True, pattern=S8S8),
        partial(family_chain, Family.DENSE, relu=True, pattern=U8S8_CENTRED),
        partial(residual_chain, U8S8, float_skip=True),
        partial(bottleneck_chain, None),
        int4_linear_chain,
        float16_chain,
    ],
    ids=["s8s8", "centred", "float skip", "bottleneck", "int4", "float16"],
)
def test_models_run_when_the_runtime_loads_them(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    model = make()
    onnx.save(model, tmp_path / "model.onnx")
    (output,) = LocalTarget().run(tmp_path / "model.onnx", feed_for(model, np.random.default_rng(0)))
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
    assert output.std() > 0.0


def test_extreme_conv_expects_exact_sums_when_run_by_the_specification() -> None:
    extreme = extreme_conv()
    extreme.model.opset_import[0].version = 19  # the first whose Q/DQ the reference knows
    (output,) = ReferenceEvaluator(extreme.model).run(None, extreme.feed)
    assert np.abs(output - extreme.expected).max() <= 1.01 * extreme.step
    # were every product sum halved, as where 16 bits saturate, it would show
    assert np.abs(extreme.expected / 2 - extreme.expected).max() > 60 * extreme.step


def test_step_macs_counts_padded_channels_when_the_step_is_coarse() -> None:
    assert step_macs(64, 16) == 16 * 64 + 5 * 64 * 64
    assert step_macs(60, 16) == step_macs(64, 16)
    assert step_macs(60, 4) == 16 * 60 + 5 * 60 * 60
    assert step_macs(48, 32) == 32 * 64 + 5 * 64 * 64


def test_step_chain_reads_the_same_input_when_its_width_changes() -> None:
    inputs = {str(step_chain(width).graph.input[0]) for width in (64, 63, 48)}
    assert len(inputs) == 1


def test_big_chain_macs_counts_the_weights_once_per_position_when_padded() -> None:
    weights = [tensor for tensor in big_chain().graph.initializer if len(tensor.dims) == 4]
    assert big_chain_macs() == sum(int(np.prod(tensor.dims)) for tensor in weights) * 28 * 28
