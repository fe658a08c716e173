"""The model card of a bundle: README.md, made of the manifest alone, so that both say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_CARD = """# {title}

A compressed model, made by paretopress. `model.onnx` ({size_bytes} bytes) is the very file that was measured: sha256
`{sha256}`.

## Measured

{measurements}

Under these conditions:

{conditions}

## Interface

{interface}{scaled}

Preprocessing, which the caller applies:

{preprocessing}

Classes{axis}: {classes}.

## Run

    pip install numpy onnxruntime
    python run.py --check
    python run.py --time --runs 200
    python run.py --predict inputs.npy

From Python: `import run; scores = run.predict(array)[0]`. `array` is the preprocessed batch, or a dict of arrays by name where there are
several inputs; {predict}

## Limits

- The figures hold under the conditions above. On another machine measure the latency with `--time`, and the accuracy with your data.
- The outputs were recorded with onnxruntime {onnxruntime} on `{cpu_family}`. int8 and float kernels differ elsewhere. `--check`
  demands {max_difference} of the output's range on the same CPU family and version. Elsewhere it warns, and demands the same
  class on {agreement} of the {samples} samples.
- The hashes reveal damage, not forgery: whoever can change the folder can change them as well.
- What the model was not trained on, it was not measured on.

The plan that made it is in `manifest.json`, next to everything above.
"""


# axes of the first output -> where its classes are, and what `--predict` prints
_AXIS = {2: ", in the order of the outputs", 4: ", in the order of axis 1 of the first output"}
_PREDICTS = {
    2: "`--predict` prints the softmax of the scores.",
    4: "`--predict` prints the share of the pixels in which each named class scores highest.",
}

_SCALED = (
    "\n\n`predict` scales images of {size} pixels, the height and width of the data, to what `{name}` takes; such images are taken too."
)
_LABELS = "`--predict` prints the labels that are more probable than not: an item may have several, or none."
_NO_PREDICTION = "`--predict` is for models that put out a score for each class."


def flattened(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every leaf of a JSON object, in its order."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flattened(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|")


def _table(names: str, value: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(name)} | {_cell(item)} |" for name, item in flattened(value)]
    return "\n".join([f"| {names} | value |", "|---|---|", *rows]) if rows else "None recorded."


def _interface(manifest: Mapping[str, Any]) -> str:
    lines = []
    for kind in ("inputs", "outputs"):
        for spec in manifest[kind]:
            shape = ", ".join(str(size) for size in spec["shape"])
            lines.append(f"- {kind[:-1]} `{spec['name']}`: ({shape}) {spec['dtype']}")
    return "\n".join(lines)


def model_card(manifest: Mapping[str, Any]) -> str:
    """Return the Markdown of README.md for a manifest that holds everything but the files' hashes."""
    check, axes = manifest["selfcheck"], len(manifest["outputs"][0]["shape"])
    return _CARD.format(
        title=" ".join(manifest["title"].split()),
        size_bytes=manifest["size_bytes"],
        sha256=manifest["sha256"],
        measurements=_table("figure", manifest["measurements"]),
        conditions=_table("condition", {**manifest["conditions"], **manifest["session_options"], "provider": manifest["provider"]}),
        interface=_interface(manifest),
        scaled="".join(_SCALED.format(name=name, size=size) for name, size in manifest.get("resized_from", {}).items()),
        preprocessing=_table("step", manifest["preprocessing"]),
        axis=_AXIS.get(axes, ", in the order of the outputs"),
        predict=_LABELS if manifest["independent_labels"] else _PREDICTS.get(axes, _NO_PREDICTION),
        classes=_cell(", ".join(manifest["classes"])) or "not named",
        onnxruntime=check["onnxruntime"],
        cpu_family=check["cpu_family"] or "unknown",
        max_difference=check["max_difference_of_range"],
        agreement=f"{check['min_argmax_agreement']:.0%}",
        samples=check["samples"],
    )
