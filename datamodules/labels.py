"""Label sets: what the numbers in a label file mean.

Files hold ids; training sees train ids: 0 .. classes-1 in the order of `names`, and 255 for every
pixel that is ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from datamodules.errors import DataError

RGB = tuple[int, int, int]
IGNORED = 255
UNKNOWN = 254  # marks, inside encode alone, a value that is neither class nor void


@dataclass(frozen=True)
class LabelSet:
    """Ids are those in the files; a negative one is stored as a byte (-1 as 255)."""

    names: tuple[str, ...]
    palette: tuple[RGB, ...]
    ids: tuple[int, ...]
    void: tuple[int, ...] = (255,)
    categories: tuple[str, ...] = ()
    void_palette: tuple[RGB, ...] = ((0, 0, 0),)
    merged: tuple[tuple[int, int], ...] = ()  # further ids of a class: (id in the files, train id)
    merged_palette: tuple[
        tuple[RGB, int], ...
    ] = ()  # further colors of a class: (color in the files, train id)
    instance_sizes: Mapping[int, float] = field(
        default_factory=dict, hash=False
    )  # train id -> average pixels of an instance

    def __post_init__(self) -> None:
        counts = {
            len(self.names),
            len(self.palette),
            len(self.ids),
            len(self.categories or self.names),
        }
        if len(counts) != 1 or not 1 <= len(self.ids) <= UNKNOWN:
            raise DataError(
                f"a label set needs as many names as colors and ids, 1 to {UNKNOWN} of each; "
                f"the counts are {sorted(counts)}"
            )
        for kind, values in (("name", self.names), ("id", [i % 256 for i in self.ids])):
            twice = sorted({str(value) for value in values if list(values).count(value) > 1})
            if twice:
                raise DataError(
                    f"two classes share the {kind} {', '.join(twice)}: give each class its own"
                )
        further = {value for value, _ in self.merged}
        if both := sorted(set(self.ids) & set(self.void) | further & {*self.ids, *self.void}):
            raise DataError(
                f"the ids {both} are classes and void at once: drop them from one of the two lists"
            )

    @cached_property
    def known(self) -> frozenset[int]:
        """Every byte that a label file may hold."""
        return frozenset(
            i % 256 for i in (*self.ids, *self.void, *(value for value, _ in self.merged))
        )

    @cached_property
    def table(self) -> np.ndarray:
        """256 entries: byte in the file -> train id, 255 for all that is no class."""
        table = np.full(256, IGNORED, np.uint8)
        for value, train_id in (*zip(self.ids, range(len(self.ids)), strict=True), *self.merged):
            table[value % 256] = train_id
        return table

    @cached_property
    def _strict_table(self) -> np.ndarray:
        table = self.table.copy()
        table[[value for value in range(256) if value not in self.known]] = UNKNOWN
        return table

    def encode(self, values: np.ndarray, where: object = "a label") -> np.ndarray:
        """File ids -> train ids; refuses, naming `where`, a value that is neither a class nor
        declared void.
        """
        if (
            values.dtype == np.uint8
        ):  # as files have it; bytes are translated twice as fast as an array is indexed
            label = np.frombuffer(
                bytearray(values.tobytes()).translate(self._strict_table.tobytes()), np.uint8
            ).reshape(values.shape)
        else:
            label = self._strict_table.take(values)
        if UNKNOWN in label:
            raise DataError(self._complaint(np.unique(values[label == UNKNOWN]).tolist(), where))
        return label

    def _complaint(self, unknown: list[int], where: object) -> str:
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        nearest = min(sorted(self.known), key=lambda value: abs(value - unknown[0]))
        return (
            f"{where} holds the label value{'s' * (len(unknown) > 1)} {shown}; allowed are "
            f"{spans(self.known)} "
            f"(nearest to {unknown[0]}: {nearest}): check that the file holds this data set's "
            "ids, not train ids or colors, "
            "or declare the value as ignored"
        )

    def encode_instances(self, values: np.ndarray) -> np.ndarray:
        """File id * 1000 + number -> int32 train id * 1000 + number in the instances of judged
        classes, -1 in all else.

        A plain file id is no instance: it is a class that has none, or a group whose members nobody
        told apart.
        """
        classes, numbers = np.divmod(values.astype(np.int32), 1000)
        countable = np.isin(self.table, [*self.instance_sizes])  # by file id
        inside = countable[classes] & (classes > 0)
        return np.where(inside, self.table[classes] * np.int32(1000) + numbers, np.int32(-1))

    def decode(self, label: np.ndarray) -> np.ndarray:
        """Train ids -> file ids, as a test server wants them; ignored pixels become the first void
        id.
        """
        table = np.full(256, self.void[0] % 256 if self.void else IGNORED, np.uint8)
        table[: len(self.ids)] = [i % 256 for i in self.ids]
        return table[label]

    def color(self, label: np.ndarray) -> np.ndarray:
        """Train ids (H, W) -> RGB (H, W, 3); ignored pixels are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette)] = self.palette
        return table[label]

    @cached_property
    def _color_table(self) -> np.ndarray:
        table = np.full(
            1 << 24, UNKNOWN, np.uint8
        )  # 16 MB answer two million pixels at once, where a search would take a second
        void = ((rgb, IGNORED) for rgb in self.void_palette)
        for (red, green, blue), train_id in (
            *void,
            *self.merged_palette,
            *zip(self.palette, range(len(self.palette)), strict=True),
        ):
            table[red << 16 | green << 8 | blue] = train_id
        return table

    def encode_colors(self, picture: np.ndarray, where: object = "a label") -> np.ndarray:
        """RGB (H, W, 3) -> train ids, for masks that were painted in the palette's colors."""
        codes = picture.astype(np.int32) @ np.int32([1 << 16, 1 << 8, 1])  # (H, W, 3) -> (H, W)
        label = self._color_table[codes]
        if UNKNOWN in label:
            colors = [
                (code >> 16, code >> 8 & 255, code & 255)
                for code in np.unique(codes[label == UNKNOWN])[:3].tolist()
            ]
            raise DataError(
                f"{where} holds the color{'s' * (len(colors) > 1)} "
                f"{', '.join(map(str, colors))}, which no class has: "
                "add it to a class or to the ignored colors, and save masks without smoothing "
                "or JPEG"
            )
        return label


def spans(values: Sequence[int] | frozenset[int]) -> str:
    """{0, 1, 2, 5} -> "0-2, 5"."""
    ordered = sorted(values)
    starts = [v for v in ordered if v - 1 not in values]
    ends = [v for v in ordered if v + 1 not in values]
    return ", ".join(
        str(start) if start == end else f"{start}-{end}"
        for start, end in zip(starts, ends, strict=True)
    )


def devkit_color(number: int) -> RGB:
    """The VOC development kit's color of a label (VOClabelcolormap.m): its bits, dealt to red,
    green and blue, fill them from above.
    """
    return tuple(
        sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(8))
        for channel in range(3)
    )


# --- Cityscapes: every id of the annotation, as published with the data set (Cordts et al., CVPR
# 2016, table in the supplement)


class Entry(NamedTuple):
    id: int
    name: str
    category: str
    color: RGB
    judged: bool


CITYSCAPES_IDS = (
    Entry(0, "unlabeled", "void", (0, 0, 0), False),
    Entry(1, "ego vehicle", "void", (0, 0, 0), False),
    Entry(2, "rectification border", "void", (0, 0, 0), False),
    Entry(3, "out of roi", "void", (0, 0, 0), False),
    Entry(4, "static", "void", (0, 0, 0), False),
    Entry(5, "dynamic", "void", (111, 74, 0), False),
    Entry(6, "ground", "void", (81, 0, 81), False),
    Entry(7, "road", "flat", (128, 64, 128), True),
    Entry(8, "sidewalk", "flat", (244, 35, 232), True),
    Entry(9, "parking", "flat", (250, 170, 160), False),
    Entry(10, "rail track", "flat", (230, 150, 140), False),
    Entry(11, "building", "construction", (70, 70, 70), True),
    Entry(12, "wall", "construction", (102, 102, 156), True),
    Entry(13, "fence", "construction", (190, 153, 153), True),
    Entry(14, "guard rail", "construction", (180, 165, 180), False),
    Entry(15, "bridge", "construction", (150, 100, 100), False),
    Entry(16, "tunnel", "construction", (150, 120, 90), False),
    Entry(17, "pole", "object", (153, 153, 153), True),
    Entry(18, "polegroup", "object", (153, 153, 153), False),
    Entry(19, "traffic light", "object", (250, 170, 30), True),
    Entry(20, "traffic sign", "object", (220, 220, 0), True),
    Entry(21, "vegetation", "nature", (107, 142, 35), True),
    Entry(22, "terrain", "nature", (152, 251, 152), True),
    Entry(23, "sky", "sky", (70, 130, 180), True),
    Entry(24, "person", "human", (220, 20, 60), True),
    Entry(25, "rider", "human", (255, 0, 0), True),
    Entry(26, "car", "vehicle", (0, 0, 142), True),
    Entry(27, "truck", "vehicle", (0, 0, 70), True),
    Entry(28, "bus", "vehicle", (0, 60, 100), True),
    Entry(29, "caravan", "vehicle", (0, 0, 90), False),
    Entry(30, "trailer", "vehicle", (0, 0, 110), False),
    Entry(31, "train", "vehicle", (0, 80, 100), True),
    Entry(32, "motorcycle", "vehicle", (0, 0, 230), True),
    Entry(33, "bicycle", "vehicle", (119, 11, 32), True),
    Entry(-1, "license plate", "vehicle", (0, 0, 142), False),
)
# Average pixels of a class's instances: constants of the benchmark's evaluation script
# (cityscapesScripts, avgClassSize).
CITYSCAPES_INSTANCES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
JUDGED = [entry for entry in CITYSCAPES_IDS if entry.judged]
CITYSCAPES = LabelSet(
    names=tuple(entry.name for entry in JUDGED),
    palette=tuple(entry.color for entry in JUDGED),
    ids=tuple(entry.id for entry in JUDGED),
    void=tuple(entry.id for entry in CITYSCAPES_IDS if not entry.judged),
    categories=tuple(entry.category for entry in JUDGED),
    instance_sizes={
        [entry.name for entry in JUDGED].index(name): pixels
        for name, pixels in CITYSCAPES_INSTANCES.items()
    },
)
STREET_TRAIN_IDS = replace(
    CITYSCAPES, ids=tuple(range(19)), void=(255,)
)  # files that hold train ids: BDD100K, ACDC, Dark Zurich

# --- CamVid: the 11 classes of SegNet's split (Badrinarayanan et al., TPAMI 2017), in its order and
# colors

CAMVID = LabelSet(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ids=tuple(range(11)),
    void=(11,),
)
