"""Images in, pictures of labels out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.progress import track

from experiments.command_line import Refused, refuse
from experiments.door import door, quiet
from experiments.pictures import colored, legend, overlay, save
from segmodels.checkpoint import from_checkpoint
from segmodels.module import SegmentationModule


def predict(checkpoint: Path, targets: Sequence[tuple[Path, Path]], out: Path, inference: str | None, strength: float) -> int:
    quiet()
    try:
        with door():
            module = from_checkpoint(checkpoint)
            if inference:
                module.recipe = replace(module.recipe, inference=inference)
            for file, _ in targets:  # before the first is written
                opened(file)
        module.to("cuda" if torch.cuda.is_available() else "cpu")
        for file, name in track(targets, description="predicting", transient=True, disable=len(targets) < 2):
            write(out, name, opened(file), label_of(module, opened(file)), module.identity["palette"], strength)
        save(legend(module.identity["classes"], module.identity["palette"]), out / "legend.png")
    except Refused as problem:
        return refuse(problem)
    print(f"{len(targets)} images: {out}/color, {out}/overlay, {out}/label, {out}/legend.png")
    return 0


def opened(file: Path) -> np.ndarray:
    """RGB as the camera meant it: EXIF orientation is applied."""
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as problem:
        raise Refused(f"{file} is not an image that can be read ({problem}); replace or leave it out") from None


def label_of(module: SegmentationModule, image: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(module.device)
    with torch.inference_mode(), half_precision(module):
        return module.label_map(pixels)[0].cpu().numpy()


def half_precision(module: SegmentationModule) -> AbstractContextManager:
    """As the run was trained and judged."""
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    precision = module.recipe.precision
    return torch.autocast(module.device.type, kinds[precision]) if precision in kinds else nullcontext()


def write(out: Path, name: Path, image: np.ndarray, label: np.ndarray, palette: Sequence, strength: float) -> None:
    pictures = {"color": colored(label, palette), "overlay": overlay(image, label, palette, strength), "label": label}
    for kind, picture in pictures.items():
        (out / kind / name).parent.mkdir(parents=True, exist_ok=True)
        save(picture, out / kind / name)
