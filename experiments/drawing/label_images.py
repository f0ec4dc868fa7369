"""What a person looks at: labels in colors, laid over the image, and sheets of image, prediction, truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from experiments.command_line.files import whole

Palette = Sequence[Sequence[int]]
IGNORED = 255


def colored(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Train ids (H, W) -> RGB (H, W, 3); ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[label]


def overlay(
    image: np.ndarray, label: np.ndarray, palette: Palette, strength: float = 0.55
) -> np.ndarray:
    """The label's colors over the image; ignored pixels show the image."""
    colors = np.zeros((256, 1, 3), np.uint8)
    colors[: len(palette), 0] = palette
    mixed = ((1 - strength) * np.arange(256)[:, None] + strength * colors).astype(
        np.uint8
    )  # (label, value, channel)
    mixed[IGNORED] = np.arange(256)[:, None]
    first, made = (
        label.astype(np.intp) << 8,
        np.empty_like(image),
    )  # looked up: several times as fast as mixing each pixel
    for channel in range(3):
        made[..., channel] = mixed[..., channel].ravel().take(first + image[..., channel])
    return made


def contact_sheet(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    palette: Palette,
    title: str,
    width: int = 512,
) -> Image.Image:
    """One row per image: the image, the prediction, the truth; predictions are left out where the truth is ignored."""
    shown = [
        (
            image,
            colored(np.where(label == IGNORED, IGNORED, predicted).astype(np.uint8), palette),
            colored(label, palette),
        )
        for image, predicted, label in rows
    ]
    return sheet(shown, ("image", "prediction", "truth"), title, width, smooth=(0,))


def preview_sheet(
    columns: Mapping[str, np.ndarray], palette: Palette, title: str, width: int = 320
) -> Image.Image:
    """What a semi-supervised method asks of unlabelled images, one row each. A column is drawn by
    its kind: uint8 (B, H, W, 3) as images, bool (B, H, W) as masks, uint8 (B, H, W) as classes
    (255: black), floats (B, H, W) from 0 to 1 in gray."""
    drawn, smooth = [], []
    for index, column in enumerate(columns.values()):
        if column.ndim == 4:
            drawn.append(column)
        elif column.dtype == np.uint8:
            drawn.append(colored(column, palette))
        else:
            drawn.append([grays(values) for values in column])
        if column.ndim == 4 or column.dtype.kind == "f":
            smooth.append(index)
    return sheet(list(zip(*drawn)), tuple(columns), title, width, smooth)


def grays(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 (H, W) -> RGB."""
    return np.repeat((255 * values.astype(np.float32)).round().astype(np.uint8)[..., None], 3, 2)


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    heads: Sequence[str],
    title: str,
    width: int,
    smooth: Sequence[int],
) -> Image.Image:
    """RGB pictures in rows under a title and the columns' heads; `smooth` are the columns whose pixels may be blended."""
    head, gap = 26, 6
    heights = [round(row[0].shape[0] * width / row[0].shape[1]) for row in rows]
    made = Image.new(
        "RGB",
        (len(heads) * (width + gap) - gap, 2 * head + sum(height + gap for height in heights)),
        "white",
    )
    draw = ImageDraw.Draw(made)
    draw.text((4, 6), title, fill="black", font_size=14)
    for column, name in enumerate(heads):
        draw.text((column * (width + gap) + 4, head + 6), name, fill="dimgray", font_size=13)
    top = 2 * head
    for row, height in zip(rows, heights):
        for column, pixels in enumerate(row):
            kind = Image.Resampling.BILINEAR if column in smooth else Image.Resampling.NEAREST
            made.paste(
                Image.fromarray(pixels).resize((width, height), kind), (column * (width + gap), top)
            )
        top += height + gap
    return made


def save(picture: Image.Image | np.ndarray, file: Path, effort: int = 6) -> None:
    """Whole or not at all; `effort`, 0 to 9, is spent on a smaller file."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    with whole(file) as partial:
        picture.save(partial, format="PNG", compress_level=effort)


def legend(names: Sequence[str], palette: Palette) -> Image.Image:
    """Colors and names, in columns of at most 32."""
    line, rows, text = 22, min(len(names), 32), {"font_size": 13}
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = 56 + round(max(draw.textlength(name, **text) for name in names))
    sheet = Image.new("RGB", (width * -(-len(names) // rows), line * rows + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, color) in enumerate(zip(names, palette)):
        left, top = index // rows * width, 4 + index % rows * line
        draw.rectangle(
            (left + 6, top + 3, left + 34, top + line - 3), fill=tuple(color), outline="gray"
        )
        draw.text((left + 42, top + 4), name, fill="black", **text)
    return sheet


def strip_beside(key: Image.Image, height: int) -> np.ndarray:
    """A legend as high as the picture that it stands beside, RGB; it is made smaller where it is higher."""
    if key.height > height:
        key = key.resize(
            (max(1, round(key.width * height / key.height)), height), Image.Resampling.LANCZOS
        )
    strip = np.full((height, key.width, 3), 255, np.uint8)
    strip[: key.height] = np.asarray(key)
    return strip
