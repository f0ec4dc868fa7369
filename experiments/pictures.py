"""What a person looks at: labels in colors, laid over the image, and sheets of image, prediction, truth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Palette = Sequence[Sequence[int]]
IGNORED = 255


def colored(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Train ids (H, W) -> RGB (H, W, 3); ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[label]


def overlay(image: np.ndarray, label: np.ndarray, palette: Palette, strength: float = 0.55) -> np.ndarray:
    """The label's colors over the image; ignored pixels show the image."""
    mixed = (1 - strength) * image + strength * colored(label, palette)
    return np.where((label == IGNORED)[..., None], image, mixed.astype(np.uint8))


def contact_sheet(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], palette: Palette, title: str, width: int = 512) -> Image.Image:
    """One row per image: the image, the prediction, the truth; predictions are left out where the truth is ignored."""
    head, gap = 26, 6
    strips = [_row(image, predicted, label, palette, width, gap) for image, predicted, label in rows]
    sheet = Image.new("RGB", (3 * width + 2 * gap, 2 * head + sum(strip.height + gap for strip in strips)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 6), title, fill="black", font_size=14)
    for column, name in enumerate(("image", "prediction", "truth")):
        draw.text((column * (width + gap) + 4, head + 6), name, fill="dimgray", font_size=13)
    top = 2 * head
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + gap
    return sheet


def _row(image: np.ndarray, predicted: np.ndarray, label: np.ndarray, palette: Palette, width: int, gap: int) -> Image.Image:
    height = round(image.shape[0] * width / image.shape[1])
    shown = np.where(label == IGNORED, IGNORED, predicted).astype(np.uint8)
    strip = Image.new("RGB", (3 * width + 2 * gap, height), "white")
    for column, pixels in enumerate((image, colored(shown, palette), colored(label, palette))):
        kind = Image.Resampling.BILINEAR if column == 0 else Image.Resampling.NEAREST
        strip.paste(Image.fromarray(pixels).resize((width, height), kind), (column * (width + gap), 0))
    return strip


def save(picture: Image.Image | np.ndarray, file: Path) -> None:
    """Whole or not at all."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    partial = file.with_name(f".{file.name}.partial")
    picture.save(partial, format="PNG")
    partial.replace(file)


def legend(names: Sequence[str], palette: Palette) -> Image.Image:
    """Colors and names, in columns of at most 32."""
    line, rows, text = 22, min(len(names), 32), {"font_size": 13}
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = 56 + round(max(draw.textlength(name, **text) for name in names))
    sheet = Image.new("RGB", (width * -(-len(names) // rows), line * rows + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, color) in enumerate(zip(names, palette)):
        left, top = index // rows * width, 4 + index % rows * line
        draw.rectangle((left + 6, top + 3, left + 34, top + line - 3), fill=tuple(color), outline="gray")
        draw.text((left + 42, top + 4), name, fill="black", **text)
    return sheet
