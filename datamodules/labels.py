"""Label sets: what the numbers in a label file mean.

Files hold ids; training sees train ids: 0 .. classes-1 in the order of `names`, and 255 for every
pixel that is ignored.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

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
    # further ids, and further colors, of a class: (in the files, train id)
    merged: tuple[tuple[int, int], ...] = ()
    merged_palette: tuple[tuple[RGB, int], ...] = ()
    # train id -> average pixels of an instance
    instance_sizes: Mapping[int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        lists = (self.names, self.palette, self.ids, self.categories or self.names)
        counts = {len(each) for each in lists}
        if len(counts) != 1 or not 1 <= len(self.ids) <= UNKNOWN:
            raise DataError(
                f"a label set needs as many names as colors and ids, 1 to {UNKNOWN} of each; "
                f"the counts are {sorted(counts)}"
            )
        for kind, values in (("name", self.names), ("id", self.ids)):
            twice = [str(value) for value, count in Counter(values).items() if count > 1]
            if twice:
                raise DataError(
                    f"two classes share the {kind} {', '.join(twice)}: give each class its own"
                )
        ids = [*self.ids, *(value for value, _ in self.merged)]
        counts = Counter(ids) + Counter({*self.void})
        if both := sorted(value for value, count in counts.items() if count > 1):
            raise DataError(
                f"the ids {both} are classes and void at once: drop them from one of the two lists"
            )

    @cached_property
    def strict_table(self) -> np.ndarray:
        """256 entries: byte in the file -> train id, 255 for void, UNKNOWN for all else."""
        table = np.full(256, UNKNOWN, np.uint8)
        table[list(self.void)] = IGNORED
        table[list(self.ids)] = range(len(self.ids))
        for value, train_id in self.merged:
            table[value] = train_id
        return table

    @cached_property
    def table(self) -> np.ndarray:
        """256 entries: byte in the file -> train id, 255 for all that is no class."""
        return np.where(self.strict_table == UNKNOWN, np.uint8(IGNORED), self.strict_table)

    @cached_property
    def known(self) -> frozenset[int]:
        """Every byte that a label file may hold."""
        return frozenset(np.flatnonzero(self.strict_table != UNKNOWN).tolist())

    def encode(self, values: np.ndarray, where: object = "a label") -> np.ndarray:
        """File ids -> train ids; refuses a value that is neither a class nor declared void."""
        if values.dtype == np.uint8:
            # Bytes are translated twice as fast as an array is indexed.
            translated = bytearray(values.tobytes()).translate(self.strict_table.tobytes())
            label = np.frombuffer(translated, np.uint8).reshape(values.shape)  # (H * W) -> (H, W)
        else:
            label = self.strict_table.take(values)
        if UNKNOWN in label:
            raise self.unknown_values(np.unique(values[label == UNKNOWN]).tolist(), where)
        return label

    def unknown_values(self, unknown: list[int], where: object) -> DataError:
        plural = "s" if len(unknown) > 1 else ""
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        nearest = min(sorted(self.known), key=lambda value: abs(value - unknown[0]))
        return DataError(
            f"{where} holds the label value{plural} {shown}; allowed are {spans(self.known)} "
            f"(nearest to {unknown[0]}: {nearest}): check that the file holds this data set's "
            "ids, not train ids or colors, or declare the value as ignored"
        )

    def encode_instances(self, values: np.ndarray) -> np.ndarray:
        """File id * 1000 + number -> int32 train id * 1000 + number, -1 where no instance is.

        A plain file id is no instance: its class has none, or it is a group annotated as one.
        """
        classes, numbers = np.divmod(values.astype(np.int32), 1000)
        countable = np.isin(self.table, [*self.instance_sizes])  # by file id
        inside = countable[classes] & (classes > 0)
        return np.where(inside, self.table[classes] * np.int32(1000) + numbers, np.int32(-1))

    def decode(self, label: np.ndarray) -> np.ndarray:
        """Train ids -> file ids, as a test server wants them; ignored becomes the first void id."""
        table = np.full(256, self.void[0] % 256 if self.void else IGNORED, np.uint8)
        table[: len(self.ids)] = [i % 256 for i in self.ids]
        return table[label]

    @cached_property
    def color_table(self) -> np.ndarray:
        """16 MB answer two million pixels at once, where a search would take a second."""
        table = np.full(1 << 24, UNKNOWN, np.uint8)
        void = [(color, IGNORED) for color in self.void_palette]
        classes = [(color, train_id) for train_id, color in enumerate(self.palette)]
        for (red, green, blue), train_id in [*void, *self.merged_palette, *classes]:
            table[red << 16 | green << 8 | blue] = train_id
        return table

    def encode_colors(self, picture: np.ndarray, where: object = "a label") -> np.ndarray:
        """RGB (H, W, 3) -> train ids, for masks that were painted in the palette's colors."""
        codes = picture.astype(np.int32) @ np.int32([1 << 16, 1 << 8, 1])  # (H, W, 3) -> (H, W)
        label = self.color_table[codes]
        if UNKNOWN in label:
            codes = np.unique(codes[label == UNKNOWN])[:3].tolist()
            colors = [(code >> 16, code >> 8 & 255, code & 255) for code in codes]
            raise DataError(
                f"{where} holds the color{'s' if len(colors) > 1 else ''} "
                f"{', '.join(map(str, colors))}, which no class has: add it to a class or to the "
                "ignored colors, and save masks without smoothing or JPEG"
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


def split_names(text: str) -> tuple[str, ...]:
    """Names with commas between them, over several lines."""
    return tuple(name.strip() for name in text.split(","))


def devkit_color(number: int) -> RGB:
    """The VOC development kit's color of a label (VOClabelcolormap.m): its bits, dealt to red,
    green and blue, fill them from above."""
    color = [0, 0, 0]
    for place in range(24):
        bit = number >> place & 1
        color[place % 3] |= bit << (7 - place // 3)
    return tuple(color)


# --- Cityscapes, as published with the data set (Cordts et al., CVPR 2016, table in the supplement)

CITYSCAPES_CLASSES = (
    (7, "road", "flat", (128, 64, 128)),
    (8, "sidewalk", "flat", (244, 35, 232)),
    (11, "building", "construction", (70, 70, 70)),
    (12, "wall", "construction", (102, 102, 156)),
    (13, "fence", "construction", (190, 153, 153)),
    (17, "pole", "object", (153, 153, 153)),
    (19, "traffic light", "object", (250, 170, 30)),
    (20, "traffic sign", "object", (220, 220, 0)),
    (21, "vegetation", "nature", (107, 142, 35)),
    (22, "terrain", "nature", (152, 251, 152)),
    (23, "sky", "sky", (70, 130, 180)),
    (24, "person", "human", (220, 20, 60)),
    (25, "rider", "human", (255, 0, 0)),
    (26, "car", "vehicle", (0, 0, 142)),
    (27, "truck", "vehicle", (0, 0, 70)),
    (28, "bus", "vehicle", (0, 60, 100)),
    (31, "train", "vehicle", (0, 80, 100)),
    (32, "motorcycle", "vehicle", (0, 0, 230)),
    (33, "bicycle", "vehicle", (119, 11, 32)),
)
IDS, NAMES, CATEGORIES, PALETTE = zip(*CITYSCAPES_CLASSES, strict=True)
# Average pixels of a class's instances: constants of the benchmark's evaluation script
# (cityscapesScripts, avgClassSize).
INSTANCE_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
CITYSCAPES = LabelSet(
    NAMES,
    PALETTE,
    IDS,
    # unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground; parking,
    # rail track; guard rail, bridge, tunnel; polegroup; caravan, trailer; license plate
    void=(*range(7), 9, 10, 14, 15, 16, 18, 29, 30, -1),
    categories=CATEGORIES,
    instance_sizes={NAMES.index(name): pixels for name, pixels in INSTANCE_SIZES.items()},
)
# files that hold train ids: BDD100K, ACDC, Dark Zurich
STREET_TRAIN_IDS = replace(CITYSCAPES, ids=tuple(range(19)), void=(255,))

# --- CamVid: the 11 classes of SegNet's split (Badrinarayanan et al., TPAMI 2017), in its order and
# colors

CAMVID_COLORS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
CAMVID = LabelSet(
    names=tuple(CAMVID_COLORS),
    palette=tuple(CAMVID_COLORS.values()),
    ids=tuple(range(11)),
    void=(11,),
)
