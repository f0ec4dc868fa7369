"""Draw labels: in colors, laid over the image, and in sheets of image, prediction and truth."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from experiments.command_line.files import whole

Palette = Sequence[Sequence[int]]
Key = tuple[Sequence[str], Palette]  # names of classes and their colors
IGNORED = 255
COMPRESSION = 2  # of PNGs: an overlay takes a fifth of the usual 6's time, and a tenth more room
# How a sheet shows pixels that the truth ignores.
STRIPED = "striped: ignored in the truth"
BLACK = "black: ignored"


def colored(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Train ids (H, W) -> RGB (H, W, 3); ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[label]


def colored_prediction(predicted: np.ndarray, label: np.ndarray, palette: Palette) -> np.ndarray:
    """Predicted train ids (H, W) -> RGB (H, W, 3); black stripes lie where the label is ignored."""
    height, width = label.shape
    period = max(width // 48, 4)  # so that stripes are still seen where a sheet shows less pixels
    diagonal = np.arange(height)[:, None] + np.arange(width)  # (H, W)
    stripes = diagonal % period < period / 3
    return colored(np.where(stripes & (label == IGNORED), IGNORED, predicted), palette)


def overlay(
    image: np.ndarray, label: np.ndarray, palette: Palette, strength: float = 0.55
) -> np.ndarray:
    """The label's colors over the image; ignored pixels show the image."""
    values = np.arange(256)[:, None]
    colors = np.zeros((256, 1, 3), np.uint8)
    colors[: len(palette), 0] = palette
    mixed = ((1 - strength) * values + strength * colors).astype(np.uint8)  # (label, value, RGB)
    mixed[IGNORED] = values
    # Looking up is several times as fast as mixing each pixel.
    first = label.astype(np.intp) << 8
    blended = np.empty_like(image)
    for channel in range(3):
        blended[..., channel] = mixed[..., channel].ravel().take(first + image[..., channel])
    return blended


# --- sheets


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    heads: Sequence[str],
    title: str,
    width: int,
    smooth: Collection[int],
    captions: Sequence[str] = (),
    key: Key = ((), ()),
) -> Image.Image:
    """RGB pictures in rows under a title and the columns' heads, each row under its caption.

    Pixels may be blended in the columns `smooth`. The classes of `key` are named at the bottom.
    """
    line = 26
    gap = 6
    above = line if captions else 0
    heights = [round(row[0].shape[0] * width / row[0].shape[1]) for row in rows]
    right = len(heads) * (width + gap) - gap
    bottom = 2 * line + sum(above + height + gap for height in heights)
    below = legend(*key, right)
    picture = Image.new("RGB", (right, bottom + below.height), "white")
    picture.paste(below, (0, bottom))
    draw = ImageDraw.Draw(picture)
    draw.text((4, 6), title, fill="black", font_size=14)
    for column, head in enumerate(heads):
        draw.text((column * (width + gap) + 4, line + 6), head, fill="dimgray", font_size=13)
    top = 2 * line
    for row, height, caption in zip(rows, heights, captions or [""] * len(rows)):
        draw.text((4, top + 6), caption, fill="black", font_size=13)
        top += above
        for column, pixels in enumerate(row):
            kind = Image.Resampling.BILINEAR if column in smooth else Image.Resampling.NEAREST
            cell = Image.fromarray(pixels).resize((width, height), kind)
            picture.paste(cell, (column * (width + gap), top))
        top += height + gap
    return picture


def contact_sheet(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    names: Sequence[str],
    palette: Palette,
    title: str,
) -> Image.Image:
    """One row per image: the image, the prediction, the truth."""
    pictures = [
        (image, colored_prediction(predicted, label, palette), colored(label, palette))
        for image, predicted, label in rows
    ]
    labels = [label for _, *pair in rows for label in pair]
    key = occurring(labels, names, palette)
    heads = ("image", f"prediction ({STRIPED})", f"truth ({BLACK})")
    return sheet(pictures, heads, title, width=512, smooth=(0,), key=key)


def preview_sheet(
    columns: Mapping[str, np.ndarray],
    names: Sequence[str],
    palette: Palette,
    title: str,
    width: int = 320,
) -> Image.Image:
    """Draw what a semi-supervised method makes of unlabeled images, one row each.

    A column is drawn by its kind: uint8 (B, H, W, 3) as images, bool (B, H, W) as masks, uint8
    (B, H, W) as classes (255: black), floats (B, H, W) from 0 to 1 in gray.
    """
    drawn = []
    smooth = []
    labels = []
    for index, column in enumerate(columns.values()):
        if column.dtype == np.uint8 and column.ndim == 3:
            drawn.append(colored(column, palette))
            labels.append(column)
            continue
        if column.dtype != bool:
            smooth.append(index)
        if column.ndim == 3:
            gray = (255 * column.astype(np.float32)).round().astype(np.uint8)
            column = np.repeat(gray[..., None], 3, 3)  # (B, H, W) -> (B, H, W, 3)
        drawn.append(column)
    key = occurring(labels, names, palette)
    return sheet(list(zip(*drawn)), tuple(columns), title, width, smooth, key=key)


def save(picture: Image.Image | np.ndarray, file: Path) -> None:
    """Write a PNG whole or not at all."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    with whole(file) as partial:
        picture.save(partial, format="PNG", compress_level=COMPRESSION)


# --- legends


def occurring(labels: Iterable[np.ndarray], names: Sequence[str], palette: Palette) -> Key:
    """The classes that any of these labels holds, in the data set's order."""
    counts = np.zeros(256, np.int64)
    for label in labels:
        counts += np.bincount(label.ravel(), minlength=256)
    classes = [index for index in range(len(names)) if counts[index]]
    return [names[index] for index in classes], [palette[index] for index in classes]


def legend(names: Sequence[str], palette: Palette, wide: int = 0) -> Image.Image:
    """Colors and names, in columns of at most 32, or in as many columns as fit a width."""
    if not names:
        return Image.new("RGB", (1, 0))
    line = 22
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = 56 + round(max(draw.textlength(name, font_size=13) for name in names))
    rows = min(len(names), 32)
    if wide:
        rows = -(-len(names) // max(wide // width, 1))
    columns = -(-len(names) // rows)
    picture = Image.new("RGB", (width * columns, line * rows + 8), "white")
    draw = ImageDraw.Draw(picture)
    for index, (name, color) in enumerate(zip(names, palette)):
        left = index // rows * width
        top = 4 + index % rows * line
        box = (left + 6, top + 3, left + 34, top + line - 3)
        draw.rectangle(box, fill=tuple(color), outline="gray")
        draw.text((left + 42, top + 4), name, fill="black", font_size=13)
    return picture


def strip_beside(key: Image.Image, height: int) -> np.ndarray:
    """A legend as high as the picture that it stands beside, RGB; a higher one is made smaller."""
    if key.height > height:
        width = max(1, round(key.width * height / key.height))
        key = key.resize((width, height), Image.Resampling.LANCZOS)
    strip = Image.new("RGB", (key.width, height), "white")
    strip.paste(key)
    return np.asarray(strip)
