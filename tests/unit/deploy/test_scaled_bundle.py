"""A bundle whose model takes smaller images than its data has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_alone import run_alone

from paretopress.core.resampling import resized
from paretopress.deploy import bundle_run
from paretopress.deploy.bundle import BundleFacts
from paretopress.deploy.verify import verify_bundle
from paretopress.errors import BundleError, DataError

Array = np.ndarray[Any, Any]


@pytest.fixture
def large() -> Array:
    """(10, 1, 4, 4) float32."""
    return np.random.default_rng(0).standard_normal((10, 1, 4, 4), dtype=np.float32)


@pytest.fixture
def scaled(write: Callable[..., Path], make_facts: Callable[..., BundleFacts], large: Array) -> Path:
    return write(facts=make_facts(plan={"schema": 1, "resolution": 0.5}), samples=large)


def test_predict_scales_images_of_the_data_s_size(scaled: Path, large: Array) -> None:
    bundle = bundle_run.load(scaled)
    assert bundle.manifest["resized_from"] == {"x": [4, 4]}
    small = resized(large, 2, 2)
    np.testing.assert_array_equal(bundle_run.predict(large, bundle)[0], bundle_run.predict(small, bundle)[0])
    np.testing.assert_allclose(bundle_run.predict(small, bundle)[0], 2.0 * small.reshape(10, 4)[:, :3], rtol=1e-6)


def test_scaled_bundle_runs_alone_and_is_verified(scaled: Path, large: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", large)
    done = run_alone(scaled, "--predict", str(tmp_path / "in.npy"))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 10
    assert run_alone(scaled, "--check").returncode == 0
    assert verify_bundle(scaled).samples == 10
    assert "scales images of [4, 4] pixels" in (scaled / "README.md").read_text(encoding="utf-8")


def test_verify_refuses_a_scaled_bundle_whose_scaling_was_altered(scaled: Path) -> None:
    (scaled / "resize.py").write_text("def fitted(array, shape): return array\n", encoding="utf-8")
    with pytest.raises(BundleError, match=r"resize.py must have sha256"):
        verify_bundle(scaled)


def test_manifest_refuses_sizes_that_are_none(scaled: Path, reseal: Callable[..., None]) -> None:
    manifest = json.loads((scaled / "manifest.json").read_text(encoding="utf-8"))
    reseal(scaled, resized_from={"x": ["4", 4]}, files=manifest["files"])
    with pytest.raises(BundleError, match="resized_from"):
        verify_bundle(scaled)


def test_write_refuses_samples_of_another_size_at_full_resolution(write: Callable[..., Path], large: Array) -> None:
    with pytest.raises(DataError, match="must have shape"):
        write(samples=large)
