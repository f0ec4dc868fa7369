"""Measure parameters, operations and memory of all that stands behind a backbone."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from datamodules.progress import with_progress
from experiments.benchmarks.memory import peak_mebibytes
from experiments.command_line.errors import as_user_error, quiet
from experiments.records import provenance
from segmodels.module import SegmentationModule
from segmodels.paper import experiment, inference_parameters, on_meta
from segmodels.prediction import choose_device

Size = tuple[int, int]
CLASSES = 21  # of PASCAL VOC


@dataclass
class Cost:
    """What a head adds, or what the backbone takes."""

    name: str
    parameters: int
    macs: int
    peak_mib: float
    layers_mib: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    rows: Mapping[str, Mapping[str, Any]], size: Size, device: str
) -> tuple[list[Cost], dict[str, Any]]:
    """Return the costs of the first row's backbone and of every head, and the conditions.

    `rows` are addresses with options of their networks.
    """
    quiet()
    with as_user_error():
        device = choose_device(device, gpus=("cuda",))
    costs = []
    for name, model in with_progress(rows.items(), "measuring"):
        torch.manual_seed(0)
        module = experiment(name).but(model=model).build(CLASSES).to(device).eval()
        image = module.padded(torch.randn(1, 3, *size, device=device))
        if not costs:
            costs.append(cost_of_backbone(module, image, device))
        costs.append(cost_of_head(name, module, image, device))
    conditions = {
        "device": torch.cuda.get_device_name() if device == "cuda" else provenance.processor(),
        "device_kind": device,
        "threads": torch.get_num_threads(),
        "size": list(size),
        "classes": CLASSES,
        "versions": provenance.versions(),
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
    }
    return costs, conditions


def cost_of_backbone(module: SegmentationModule, image: Tensor, device: str) -> Cost:
    with torch.inference_mode():
        peak = peak_mebibytes(lambda: module.features(image), device)
    backbone = on_meta(module)
    macs, layers = counted(backbone, lambda: backbone.features(image.to("meta")))
    parameters = sum(each.numel() for each in backbone.encoder().parameters())
    return Cost("backbone", parameters, macs, peak, layers)


def cost_of_head(name: str, module: SegmentationModule, image: Tensor, device: str) -> Cost:
    """Measure from the features to the logits."""
    with torch.inference_mode():
        features = module.features(image)
        peak = peak_mebibytes(lambda: module.decode(features), device)
    meta = on_meta(module)
    features = meta.features(image.to("meta"))
    macs, layers = counted(meta, lambda: meta.decode(features))
    encoder = sum(each.numel() for each in meta.encoder().parameters())
    return Cost(name, inference_parameters(meta, CLASSES) - encoder, macs, peak, layers)


def counted(module: nn.Module, work: Callable[[], object]) -> tuple[int, float]:
    """Count multiply-accumulates, and the mebibytes of float32 that layers put out."""
    values = 0

    def count(layer: nn.Module, given: object, out: object) -> None:
        nonlocal values
        values += out.numel() if isinstance(out, Tensor) else 0

    layers = [each for each in module.modules() if not list(each.children())]
    hooks = [each.register_forward_hook(count) for each in layers]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2, 4 * values / 2**20
