"""Runtimes by name."""

from __future__ import annotations

from paretopress.core.registry import Registry
from paretopress.runtimes.onnx_runtime import ONNX_RUNTIME
from paretopress.runtimes.runtime import Runtime

RUNTIMES = Registry[Runtime]("runtime", {ONNX_RUNTIME.name: ONNX_RUNTIME})
