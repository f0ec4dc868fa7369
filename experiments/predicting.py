"""Images in, pictures of labels out."""

import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from experiments.command_line import Refused, refuse
from experiments.door import door, quiet
from experiments.networks import Authors, trained
from experiments.pictures import colored, legend, overlay, save
from experiments.predict import KINDS
from segmodels.module import SegmentationModule


def predict(source: Path | Authors, targets: Sequence[tuple[Path, Path]], out: Path, inference: str | None, strength: float) -> int:
    quiet()
    try:
        with door():
            module = trained(source)
            settle(module, inference, None)
            key = legend(module.identity["classes"], module.identity["palette"])
            for file, _ in shown(targets, "reading"):  # all, before the first is written
                opened(file)
            prepare(out, key)
        module.to("cuda" if torch.cuda.is_available() else "cpu")
        for file, name in shown(targets, "predicting"):
            image = opened(file)
            label = label_of(module, image)
            with door():
                write(out, name, image, label, module.identity["palette"], strength)
    except Refused as problem:
        return refuse(problem)
    print(f"{len(targets)} image{'s' * (len(targets) > 1)}: {', '.join(str(out / name) for name in (*KINDS, 'legend.png'))}")
    return 0


def shown(targets: Sequence[tuple[Path, Path]], doing: str) -> Iterable[tuple[Path, Path]]:
    console = Console(stderr=True)
    return track(targets, doing, console=console, transient=True, disable=len(targets) < 2 or not console.is_terminal)


def opened(file: Path) -> np.ndarray:
    """RGB as the camera meant it: EXIF orientation is applied."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if image.mode[0] in "IF":  # PIL would cut off what is above 255
                raise ValueError(f"its pixels have more than 8 bits, mode {image.mode}")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        why = "its format is not known" if isinstance(problem, UnidentifiedImageError) else problem
        raise Refused(f"{file} is not an image that can be read ({why}); convert it to 8-bit PNG or JPEG, or leave it out") from None


def prepare(out: Path, key: Image.Image) -> None:
    """The folders, and the legend that all pictures below them share."""
    file = out / "legend.png"
    if file.exists() and not np.array_equal(opened(file), np.asarray(key)):
        raise Refused(f"{file} exists and is of other classes, and is not overwritten; give another --out")
    try:
        for kind in KINDS:
            (out / kind).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Refused(f"{problem.filename} cannot be made ({problem.strerror}); give another --out") from None
    if not file.exists():
        save(key, file)


def settle(module: SegmentationModule, inference: str | None, precision: str | None) -> None:
    """What was asked for over what the run stored; float16 needs a GPU, and a CPU takes bfloat16 instead."""
    inference, precision = inference or module.recipe.inference, precision or module.recipe.precision
    if precision == "16-mixed" and not torch.accelerator.is_available():
        print("16-mixed is not computed on a CPU; bf16-mixed takes its place")
        precision = "bf16-mixed"
    module.recipe = replace(module.recipe, inference=inference, precision=precision)


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
