"""From pixels to what a network says of them, as it was trained and judged: for all that look at images one by one."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch

from segmodels.inference import Strips, mode
from segmodels.module import SegmentationModule


def settle(module: SegmentationModule, inference: str | None, precision: str | None) -> None:
    """What was asked for over what the run stored; float16 needs a GPU, and a CPU takes bfloat16 instead."""
    inference, precision = (
        inference or module.recipe.inference,
        precision or module.recipe.precision,
    )
    if precision == "16-mixed" and not torch.accelerator.is_available():
        print("16-mixed is not computed on a CPU; bf16-mixed takes its place")
        precision = "bf16-mixed"
    module.recipe = replace(module.recipe, inference=inference, precision=precision)


def device_of(wanted: str = "auto") -> str:
    """What --device means here: the GPU where there is one."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ValueError(
            "--device cuda: this torch sees no CUDA device; give --device cpu, or leave it out"
        )
    return "cuda" if there and wanted != "cpu" else "cpu"


def half_precision(module: SegmentationModule) -> AbstractContextManager:
    """A CPU takes bfloat16 in place of float16, where a GPU was asked for in vain."""
    kinds = {
        "bf16-mixed": torch.bfloat16,
        "16-mixed": torch.float16 if module.device.type == "cuda" else torch.bfloat16,
    }
    precision = module.recipe.precision
    return (
        torch.autocast(module.device.type, kinds[precision])
        if precision in kinds
        else nullcontext()
    )


@contextmanager
def seeing(module: SegmentationModule, images: Sequence[np.ndarray]) -> Iterator[Strips]:
    """By the recipe's inference mode, for images of one size; what is asked of the strips is computed within."""
    pixels = (
        torch.from_numpy(np.stack(images)).to(module.device).permute(0, 3, 1, 2).contiguous()
    )  # as judging gives them
    with torch.inference_mode(), half_precision(module):
        yield mode(module.recipe.inference)(module, pixels)


def label_of(module: SegmentationModule, image: np.ndarray) -> np.ndarray:
    with seeing(module, [image]) as strips:
        return strips.argmax()[0].cpu().numpy()
