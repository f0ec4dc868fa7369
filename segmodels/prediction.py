"""Predict single images in a network's own inference mode and precision."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segmodels.inference_modes import Strips, mode
from segmodels.module import SegmentationModule

Picture = str | Path | Image.Image | np.ndarray | Tensor


def predict(module: SegmentationModule, image: Picture) -> np.ndarray:
    """Predict the class of each pixel, uint8 (H, W).

    The image is a file, a PIL image, a uint8 RGB array (H, W, 3) or a uint8 RGB tensor (3, H, W).
    """
    with predicted_strips(module, [rgb_array(image)]) as strips:
        return strips.argmax()[0].cpu().numpy()


@contextmanager
def predicted_strips(module: SegmentationModule, images: Sequence[np.ndarray]) -> Iterator[Strips]:
    """Give the logits of uint8 RGB images of one size, made a few rows at a time.

    They can be read while the context is open.
    """
    pixels = torch.from_numpy(np.stack(images)).to(module.device)
    pixels = pixels.permute(0, 3, 1, 2).contiguous()  # (B, H, W, 3) -> (B, 3, H, W)
    with torch.inference_mode(), autocast(module):
        yield mode(module.recipe.inference)(module, pixels)


def rgb_array(image: Picture) -> np.ndarray:
    """Return the pixels of an image of any kind as uint8 (H, W, 3)."""
    if isinstance(image, (str, Path)):
        with Image.open(image) as opened:
            return rgb_array(opened)
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):  # PIL would clip instead of scaling
            raise ValueError(
                f"a PIL image of mode {image.mode} has no 8-bit pixels; scale it first"
            )
        return np.array(image.convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3:
            raise ValueError(f"a tensor of shape {tuple(image.shape)} is no image (3, H, W)")
        image = image.permute(1, 2, 0).cpu().numpy()  # (3, H, W) -> (H, W, 3)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{image.dtype} pixels of shape {image.shape} are no image; give uint8 RGB (H, W, 3)"
        )
    return image


# --- how a network computes


def prepared(module: SegmentationModule) -> SegmentationModule:
    """Move a network to its device, and return the form that is fastest there.

    On a CPU that is a copy whose logits are the network's but for rounding, see `folding`.
    """
    return module.to(choose_device(module.computes_on)).fast_form()


def set_inference(module: SegmentationModule, inference: str | None, precision: str | None) -> None:
    """Change the inference mode and the precision, if they are given.

    float16 needs a GPU; a CPU takes bfloat16 instead.
    """
    inference = inference or module.recipe.inference
    precision = precision or module.recipe.precision
    if precision == "16-mixed" and not torch.accelerator.is_available():
        print("16-mixed is not computed on a CPU; bf16-mixed takes its place")
        precision = "bf16-mixed"
    module.recipe = replace(module.recipe, inference=inference, precision=precision)


def set_runtime(module: SegmentationModule, runtime: str, device: str = "auto") -> None:
    """Have "torch" or "onnxruntime" compute what a module evaluates and predicts, on a device.

    onnxruntime computes on the CPU alone.
    """
    module.computes_on = choose_device(device)
    if runtime == "onnxruntime":
        from segmodels.onnx_form import use_onnxruntime  # onnx takes a second to import

        use_onnxruntime(module)


def autocast(module: SegmentationModule) -> AbstractContextManager:
    """Return a context of the recipe's precision; a CPU takes bfloat16 instead of float16."""
    device = module.device.type
    kinds = {
        "bf16-mixed": torch.bfloat16,
        "16-mixed": torch.bfloat16 if device == "cpu" else torch.float16,
    }
    kind = kinds.get(module.recipe.precision)
    return torch.autocast(device, kind) if kind else nullcontext()


def choose_device(wanted: str = "auto", gpus: Sequence[str] = ("cuda", "mps")) -> str:
    """Return the device of a --device; "auto" takes the first of `gpus` that there is, or the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next((gpu for gpu in gpus if available[gpu]), "cpu")
    if wanted != "cpu" and not available[wanted]:
        raise ValueError(
            f"--device {wanted}: this torch sees no {wanted.upper()} device; give --device cpu, "
            "or leave it out"
        )
    return wanted
