"""The models that wild.py goes through, by specs: torchvision:NAME, timm:NAME, ultralytics:YAML, transformers:NAME, onnx:PACKAGE/FILE.

    python benchmarks/wild_models.py > benchmarks/wild_list.json       the list, which is fixed before anything is tuned to it
    python benchmarks/wild_models.py --draw 40 --seed 7                names of timm that are drawn, for a list that nothing was tuned to

All weights are random (seed 0) but for those of the ONNX files: structure, parity and time are what is looked at. So that a wrong file
shows, no signal dies out: batch norms hold the statistics of the inputs, and scales that begin at nearly zero do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SEED, ITEMS, MOST_PARAMETERS = 0, 4, 90_000_000
CLASSES = 10
ULTRALYTICS = ("yolov5nu", "yolov8n", "yolov8n-seg", "yolo11n", "yolo12n", "yolo26n")
ONNX_FILES = (
    "onnx:rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
    "onnx:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "onnx:nudenet/320n.onnx",
    "onnx:basic_pitch/saved_models/icassp_2022/nmp.onnx",
)
# configuration -> (the model's class, layers of a base model where it has more than 90 M parameters else)
TEXT = {
    "bert": "BertForSequenceClassification", "distilbert": "DistilBertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification", "albert": "AlbertForSequenceClassification",
    "electra": "ElectraForSequenceClassification", "mpnet": "MPNetForSequenceClassification",
    "mobilebert": "MobileBertForSequenceClassification", "squeezebert": "SqueezeBertForSequenceClassification",
    "convbert": "ConvBertForSequenceClassification",
}  # fmt: skip
IMAGES = {
    "vit": "ViTForImageClassification", "deit": "DeiTForImageClassification", "swin": "SwinForImageClassification",
    "convnext": "ConvNextForImageClassification", "resnet": "ResNetForImageClassification", "regnet": "RegNetForImageClassification",
    "mobilenet_v1": "MobileNetV1ForImageClassification", "mobilenet_v2": "MobileNetV2ForImageClassification",
    "mobilevit": "MobileViTForImageClassification", "poolformer": "PoolFormerForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
}  # fmt: skip
AUDIO = {
    "wav2vec2": "Wav2Vec2ForSequenceClassification", "hubert": "HubertForSequenceClassification",
    "wavlm": "WavLMForSequenceClassification", "sew": "SEWForSequenceClassification",
    "audio-spectrogram-transformer": "ASTForAudioClassification",
}  # fmt: skip
Loaded = tuple[nn.Module, Any]


def listed() -> list[str]:
    """Return the list: torchvision's classifiers, the smallest architecture of each module of timm, and the others above."""
    return [
        *_torchvision(),
        *_smallest_of_timm(),
        *(f"ultralytics:{name}.yaml" for name in ULTRALYTICS),
        *(f"transformers:{name}" for name in (*TEXT, *IMAGES, *AUDIO)),
        *ONNX_FILES,
    ]


def _torchvision() -> list[str]:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision:{name}" for name in names if _parameters(lambda name=name: torchvision.models.get_model(name)) <= MOST_PARAMETERS]


def _smallest_of_timm() -> list[str]:
    import timm

    found = []
    for module in sorted(timm.list_modules()):
        sizes = {name: _parameters(lambda name=name: timm.create_model(name)) for name in timm.list_models(module=module)}
        if sizes:
            found.append(f"timm:{min(sizes, key=lambda name: (sizes[name], name))}")
    return found


def _parameters(make: Callable[[], nn.Module]) -> float:
    """Return the number of parameters of a model, which is made without memory for them; infinite where that fails."""
    try:
        with torch.device("meta"):
            return sum(part.numel() for part in make().parameters())
    except Exception:  # a model that computes something of its weights as it is made
        try:
            return sum(part.numel() for part in make().parameters())
        except Exception:  # one that needs a package, or a file
            return float("inf")


def load(spec: str) -> Loaded:
    """Return a model in eval mode and a batch of inputs for it: (N, ...), a tuple of them, or a dict by names."""
    torch.manual_seed(SEED)
    kind, _, name = spec.partition(":")
    model, inputs = _LOADERS[kind](name)
    if kind != "onnx":
        _keep_signals(model.eval(), inputs)
    return model.eval(), inputs


@torch.no_grad()
def _keep_signals(model: nn.Module, inputs: Any) -> None:
    """Give scales that begin at nearly zero (of layers' outputs, of a block's last norm) values in [0.5, 1], and batch norms statistics."""
    for name, part in model.named_parameters():
        if not name.endswith("bias") and part.numel() > 1 and max(part.shape) == part.numel() and float(part.abs().max()) < 0.01:
            part.uniform_(0.5, 1.0)
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        model(**inputs) if isinstance(inputs, dict) else model(*as_tensors(inputs))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _load_torchvision(name: str) -> Loaded:
    import torchvision

    size = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, num_classes=CLASSES), torch.randn(ITEMS, 3, size, size)


def _load_timm(name: str) -> Loaded:
    import timm

    model = timm.create_model(name, num_classes=CLASSES)
    channels, height, width = model.pretrained_cfg.get("input_size", (3, 224, 224)) if hasattr(model, "pretrained_cfg") else (3, 224, 224)
    return model, torch.randn(ITEMS, channels, height, width)


def _load_ultralytics(name: str) -> Loaded:
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    kind = SegmentationModel if "-seg" in name else DetectionModel
    return kind(name, verbose=False), torch.rand(ITEMS, 3, 320, 320)


def _load_transformers(name: str) -> Loaded:
    import transformers

    kind = (TEXT | IMAGES | AUDIO)[name]
    config = transformers.AutoConfig.for_model(name)
    config.num_labels = CLASSES
    for key in ("num_hidden_layers", "encoder_layers"):  # a base model of 12 layers has over 90 M parameters
        if name in (*TEXT, *AUDIO, "vit", "deit", "dinov2") and isinstance(getattr(config, key, None), int):
            setattr(config, key, min(getattr(config, key), 4))
    if "token" in repr(getattr(config, "pad_token_id", None)) or getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = 0
    model = getattr(transformers, kind)(config)
    if name in TEXT:
        tokens = torch.randint(5, 900, (ITEMS, 32))
        mask = torch.ones_like(tokens)
        mask[1, 20:] = 0
        return model, {"input_ids": tokens, "attention_mask": mask}
    if name == "audio-spectrogram-transformer":
        return model, {"input_values": torch.randn(ITEMS, config.max_length, config.num_mel_bins)}
    if name in AUDIO:
        return model, {"input_values": torch.randn(ITEMS, 8_000)}
    size = getattr(config, "image_size", 224)
    side = size if isinstance(size, int) else size[0]
    return model, {"pixel_values": torch.randn(ITEMS, 3, side, side)}


def _load_onnx(name: str) -> Loaded:
    import onnx

    from paretopress.intake.conversion import faithful_conversion
    from paretopress.intake.model_spec import load_model

    package, _, path = name.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed")
    file = Path(next(iter(found.submodule_search_locations)), path)
    given = onnx.load(file).graph.input[0]
    shape = [axis.dim_value for axis in given.type.tensor_type.shape.dim]
    wanted = [ITEMS, *(size or 96 for size in shape[1:])]
    if "320n" in path:
        wanted = [ITEMS, 3, 320, 320]
    if "_det_" in path:
        wanted = [ITEMS, 3, 320, 320]
    if "_cls_" in path:
        wanted = [ITEMS, 3, 48, 192]
    inputs = torch.rand(wanted)
    return faithful_conversion(load_model(str(file)), file, None, inputs), inputs


def answer_of(arguments: list[str], *, threads: int, seconds: float) -> dict[str, Any]:
    """Return what a script prints as JSON in its last line, from a process of its own that has so much time and so many threads."""
    settings = {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore", "YOLO_VERBOSE": "False"}
    try:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=seconds, check=False)
        return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {"error": f"exit code {done.returncode}"}
    except subprocess.TimeoutExpired:
        return {"error": f"over {seconds:.0f} s"}
    except (IndexError, json.JSONDecodeError):
        return {"error": "no answer"}


_LOADERS: dict[str, Callable[[str], Loaded]] = {
    "torchvision": _load_torchvision,
    "timm": _load_timm,
    "ultralytics": _load_ultralytics,
    "transformers": _load_transformers,
    "onnx": _load_onnx,
}


def drawn(count: int, seed: int) -> list[str]:
    """Return names of timm drawn at random, those left out that are on the list, or have over 90 M parameters."""
    import timm

    known = set(json.loads(Path(__file__).with_name("wild_list.json").read_text()))
    names = sorted(timm.list_models())
    random.Random(seed).shuffle(names)
    found: list[str] = []
    for name in names:
        if f"timm:{name}" not in known and _parameters(lambda name=name: timm.create_model(name)) <= MOST_PARAMETERS:
            found.append(f"timm:{name}")
        if len(found) == count:
            break
    return found


def as_tensors(inputs: Any) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs.values()) if isinstance(inputs, dict) else tuple(inputs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", type=int)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    print(json.dumps(listed() if args.draw is None else drawn(args.draw, args.seed), indent=1))
