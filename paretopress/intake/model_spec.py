"""Load a model from a spec: a factory in a user's file, a torchvision architecture with weights, an ONNX file, or a trusted pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from paretopress.errors import ConfigError, ModelError, TrustError, nearest, typed_line
from paretopress.intake.onnx_module import OnnxGraph
from paretopress.intake.onnx_simplify import inputs_of, simplified
from paretopress.intake.plain_model import without_prefix
from paretopress.intake.raw_heads import RawHeads
from paretopress.system.object_spec import Spec, parse_spec, resolve
from paretopress.system.user_factory import call_factory, is_factory

PICKLES = (".pt", ".pth")
MODEL_FORMS = (
    "FILE.py:FACTORY",
    "torchvision:resnet18?weights=FILE.safetensors&num_classes=10",
    "ultralytics:best.pt (with --trust)",
    "keras:MODEL.keras",
    "MODEL.onnx",
    "MODEL.pt (with --trust)",
)
# what training scripts put around a state dict
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema", "ema")
NAMED = 3
_COCO_CLASSES = 91  # of torchvision's weights; the background is one of them
_TENSORFLOW_FILES = {".tflite": "--tflite", ".pb": "--graphdef"}
_KERAS_FILES = (".keras", ".h5", ".hdf5")
Shapes = Mapping[str, tuple[int, ...]] | Sequence[tuple[int, ...]]


def load_model(spec: str, *, trust: bool = False, base: Path | None = None, shapes: Shapes | None = None) -> nn.Module:
    """Return the model that `spec` names, in eval mode; its forms are MODEL_FORMS. Nothing is downloaded.

    Args:
        trust: whether pickles may be read. A .pt file of weights is read with weights_only=True even then.
        base: the folder that relative paths start from; default: the working folder.
        shapes: of one item of the data, by the names of the inputs or in their order; an ONNX file is converted for these.
    Raises: ConfigError: an unknown form, name or option. TrustError: a pickle without `trust`. ModelError: the file is missing or
        damaged, does not hold a module, or its weights do not fit the architecture; or a factory raised.
    """
    if is_factory(spec):
        return _module(call_factory(spec, base, ModelError), spec).eval()
    if Path(spec).suffix in PICKLES and "?" not in spec:
        return _pickled_model(resolve(spec, base), trust).eval()
    file = onnx_file(spec, base)
    if file is not None:
        return _onnx_model(file, shapes).eval()
    parsed = parse_spec(spec, base)
    if parsed.kind == "torchvision":
        return _torchvision_model(parsed, trust).eval()
    if parsed.kind == "ultralytics":
        return _ultralytics_model(parsed, trust).eval()
    if parsed.kind == "keras":
        return _keras_model(parsed, trust).eval()
    raise ConfigError(f"a model spec must have a known form, but got {spec!r}", _way_round(spec, base))


def _way_round(spec: str, base: Path | None) -> str:
    """Return what to do with a spec of no known form: how a file of TensorFlow becomes one that is taken, else the known forms."""
    path = resolve(spec, base)
    option = "--saved-model" if (path / "saved_model.pb").is_file() else _TENSORFLOW_FILES.get(path.suffix)
    if option is not None:
        return f"Convert it: python -m tf2onnx.convert {option} {spec} --output model.onnx, and hand over model.onnx."
    if path.suffix in _KERAS_FILES:
        return f"Hand over keras:{spec}; a file of Keras 2 is saved anew by Keras 3 first: model.save('MODEL.keras')."
    return f"Valid forms: {', '.join(MODEL_FORMS)}."


def onnx_file(spec: str, base: Path | None = None) -> Path | None:
    """Return the ONNX file that a spec names, None where it names something else."""
    return resolve(spec, base) if Path(spec).suffix == ".onnx" and "?" not in spec and not is_factory(spec) else None


def _module(value: object, source: str) -> nn.Module:
    if not isinstance(value, nn.Module):
        hint = "For a state dict, give the architecture: FILE.py:FACTORY, or torchvision:NAME?weights=FILE."
        raise ModelError(f"a model must be a torch.nn.Module, but got {type(value).__name__} from {source}", hint)
    return value


def _demand_trust(path: Path, trust: bool) -> None:
    if not trust:
        raise TrustError(
            f"{path.name} is a pickle, which can run any code when it is read",
            "Convert the weights to .safetensors, or pass --trust if you know where the file comes from.",
        )


def demand_file(path: Path) -> None:
    """Raise ModelError unless a model's file is there."""
    if not path.is_file():
        raise ModelError(
            f"the model file must exist, but got {path}", "Relative paths start from the config's folder, else the working folder."
        )


def _pickled_model(path: Path, trust: bool) -> nn.Module:
    _demand_trust(path, trust)
    demand_file(path)
    try:
        value: object = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a damaged or foreign pickle can raise anything
        hint = "If a class is missing, hand over FILE.py:FACTORY instead, which builds the module and loads its weights."
        raise ModelError(f"{path.name} could not be read: {typed_line(error)}", hint) from error
    return _module(value, path.name)


def _torchvision_model(spec: Spec, trust: bool) -> nn.Module:
    import torchvision  # two seconds that only those wait for who name it

    spec.allow("weights", "num_classes", argument="NAME")
    detectors = [name for name in torchvision.models.list_models(module=torchvision.models.detection) if name.startswith("ssd")]
    known = [*torchvision.models.list_models(module=torchvision.models), *detectors]
    if spec.argument not in known:
        raise ConfigError(f"torchvision has no classifier or SSD {spec.argument!r}", f"Did you mean {nearest(spec.argument, known)}?")
    is_detector = spec.argument in detectors
    without_download = {"weights_backbone": None} if is_detector else {}
    weights = spec.path("weights")
    state = None if weights is None else _state_dict(weights, trust)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(
            spec.argument,
            weights=None,
            num_classes=spec.integer("num_classes", _COCO_CLASSES if is_detector else 1000, minimum=1),
            **without_download,
        )
    if weights is not None and state is not None:
        state = without_prefix(state, model.state_dict())
        _demand_fit(model.state_dict(), state, f"{weights.name} for {spec.argument}")
        model.load_state_dict(state)
    return model


def _ultralytics_model(spec: Spec, trust: bool) -> nn.Module:
    """Return a detector of the user's own ultralytics package, which puts out its raw heads."""
    spec.allow(argument="best.pt")
    path = resolve(spec.argument, spec.base)
    _demand_trust(path, trust)
    demand_file(path)
    try:
        from ultralytics import YOLO
    except ImportError as error:
        raise ModelError(f"{spec.text!r} needs the package ultralytics, but got: {error}", "pip install ultralytics (AGPL-3.0).") from error
    try:
        model = YOLO(str(path)).model
    except Exception as error:  # a damaged or foreign pickle can raise anything
        raise ModelError(f"{path.name} could not be read: {typed_line(error)}", "Is it a checkpoint of ultralytics?") from error
    return RawHeads(_module(model, path.name).float())


def _keras_model(spec: Spec, trust: bool) -> nn.Module:
    """Return a Keras 3 model, which is a module where Keras runs on torch."""
    spec.allow(argument="MODEL.keras")
    path = resolve(spec.argument, spec.base)
    demand_file(path)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError as error:
        raise ModelError(f"{spec.text!r} needs Keras 3, but got: {error}", "pip install keras") from error
    if keras.backend.backend() != "torch":
        found = keras.backend.backend()
        raise ModelError(
            f"a Keras model must run on torch, but got the backend {found}", "Set KERAS_BACKEND=torch before keras is imported."
        )
    try:
        return _module(keras.saving.load_model(path, compile=False, safe_mode=not trust), path.name)
    except Exception as error:  # a damaged file, or a class of the user's that is not registered
        hint = "A model with layers of your own is handed over as FILE.py:FACTORY."
        raise ModelError(f"{path.name} could not be read: {typed_line(error)}", hint) from error


def _onnx_model(path: Path, shapes: Shapes | None) -> nn.Module:
    demand_file(path)
    try:
        from onnx2torch import convert
    except ImportError as error:
        raise ModelError(f"an ONNX model needs onnx2torch, but got: {error}", "pip install 'paretopress[onnx]'.") from error
    try:
        file = onnx.load(path)
        named = dict(zip(inputs_of(file), shapes, strict=False)) if isinstance(shapes, Sequence) else dict(shapes or {})
        module: fx.GraphModule = convert(simplified(file, named))
    except Exception as error:  # a damaged file, or an operator that it does not know: its errors share no base class
        try:
            return OnnxGraph(onnx.load(path), typed_line(error))
        except Exception as damage:  # a file that is none, for one
            raise ModelError(
                f"{path.name} must be an ONNX model that ONNX Runtime runs, but got {typed_line(damage)}",
                "Hand over the model that it was exported from.",
            ) from error
    _without_slashes(module)
    return module


def _without_slashes(module: fx.GraphModule) -> None:
    """Rename the layers of a converted file: "layer1/0/conv" becomes "layer1_0_conv", because fvcore splits names at slashes."""
    renamed: dict[str, str] = {}
    for name, child in list(module.named_children()):
        delattr(module, name)  # all of them, so that they stay in order
        flat = name.replace("/", "_")
        while hasattr(module, flat):
            flat += "_"
        module.add_module(flat, child)
        renamed[name] = flat
    for node in module.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            first, _, rest = str(node.target).partition(".")
            node.target = ".".join(filter(None, (renamed.get(first, first), rest)))
    module.recompile()


def _state_dict(path: Path, trust: bool) -> dict[str, Tensor]:
    if path.suffix not in (".safetensors", *PICKLES):
        raise ModelError(f"weights must be .safetensors, .pt or .pth, but got {path.name}", "Save them with safetensors.torch.save_file.")
    if path.suffix in PICKLES:
        _demand_trust(path, trust)
    demand_file(path)
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True) if path.suffix in PICKLES else load_file(path)
    except Exception as error:  # a damaged pickle can raise anything, IndexError for one
        raise ModelError(
            f"the weights in {path.name} could not be read: {typed_line(error)}", "Save a state dict, not the module."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path.name} must hold a state dict of tensors, but got {type(state).__name__}", "Save model.state_dict().")
    return dict(state)


def _demand_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    complaints = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "of another shape": [
            f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in wanted
            if key in given and given[key].shape != wanted[key].shape
        ],
    }
    found = "; ".join(f"{len(keys)} {word}: {', '.join(keys[:NAMED])}" for word, keys in complaints.items() if keys)
    if found:
        raise ModelError(
            f"weights must fit the architecture, but got {what} with {found}", "Check the architecture's name and num_classes."
        )
