"""The chains that the peak is measured on; no rate is asserted."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from paretopress.evaluators.rates import CHANNELS, Rates, conv_chain, peak_gmacs
from paretopress.runtimes.onnx_runtime import open_session
from paretopress.runtimes.runtime import SessionSettings


def test_rates_tell_depthwise_and_int8_apart_when_asked() -> None:
    rates = Rates(1.0, 2.0, 3.0, 4.0)
    assert [rates.gmacs(int8=int8, depthwise=depthwise) for depthwise in (False, True) for int8 in (False, True)] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("groups", [1, CHANNELS], ids=["dense", "depthwise"])
@pytest.mark.parametrize(("int8", "op"), [(False, "Conv"), (True, "QLinearConv")], ids=["float", "int8"])
def test_conv_chain_fuses_throughout_when_the_runtime_loads_it(tmp_path: Path, groups: int, int8: bool, op: str) -> None:
    onnx.save(conv_chain(2, groups, int8=int8), tmp_path / "chain.onnx")
    open_session(tmp_path / "chain.onnx", SessionSettings(), optimised=tmp_path / "optimised.onnx")
    ops = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert ops.count(op) == 2
    assert ops.count("QuantizeLinear") == ops.count("DequantizeLinear") == int(int8)


def test_peak_gmacs_is_positive_when_measured_here() -> None:
    assert peak_gmacs(SessionSettings()) > 0.0
