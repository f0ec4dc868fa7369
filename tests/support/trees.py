"""Write tiny data sets in their official layouts, with random pixels and known labels."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from datamodules.camvid32 import GROUPS
from datamodules.labels import CITYSCAPES

Arrays = tuple[np.ndarray, np.ndarray]  # RGB (H, W, 3), values of the label file (H, W)


def noise(size: tuple[int, int], ids: tuple[int, ...], seed: int = 0, block: int = 4) -> Arrays:
    """Fine noise, the hardest picture for an interpolation, over blocks of random ids."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    coarse = rng.choice(np.array(ids, np.uint8), (-(-size[0] // block), -(-size[1] // block)))
    return image, coarse.repeat(block, 0).repeat(block, 1)[: size[0], : size[1]]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
    path.write_bytes(cv2.imencode(path.suffix, bgr)[1].tobytes())
    return path


def cityscapes(
    root: Path, counts: Mapping[str, int], size: tuple[int, int] = (48, 96)
) -> dict[str, Arrays]:
    """Two cities a split; {name: (image, label ids)} of everything written."""
    written = {}
    for split, count in counts.items():
        for index in range(count):
            city = ("aachen", "bochum")[index % 2]
            name = f"{city}_{index:06d}_000019"
            pair = noise(
                size,
                tuple(i for i in CITYSCAPES.ids + CITYSCAPES.void if i >= 0),
                seed=len(written),
            )
            save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", pair[0])
            save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", pair[1])
            save(
                root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png",
                instance_ids(pair[1]),
            )
            written[f"{split}/{name}"] = pair
    return written


def instance_ids(ids: np.ndarray) -> np.ndarray:
    """Humans and vehicles by columns: two instances of each class, and a group, which keeps the
    plain id.
    """
    parts = np.uint16(np.arange(ids.shape[1]) * 3 // ids.shape[1])
    numbered = (ids >= 24) & (parts < 2)
    return np.where(numbered, ids * np.uint16(1000) + parts, ids).astype(np.uint16)


def camvid(
    root: Path, counts: Mapping[str, int], size: tuple[int, int] = (36, 48), suffix: str = ".png"
) -> dict[str, Arrays]:
    written = {}
    for split, count in counts.items():
        for index in range(count):
            name = f"0001TP_{6690 + 30 * index:06d}"
            pair = noise(size, tuple(range(12)), seed=len(written))
            save(root / split / f"{name}{suffix}", pair[0])
            save(root / f"{split}annot" / f"{name}.png", pair[1])
            written[f"{split}/{name}"] = pair
    return written


def folder(
    root: Path,
    counts: Mapping[str, int],
    classes: object,
    ids: tuple[int, ...] = (0, 1, 2),
    size: tuple[int, int] = (40, 60),
) -> dict[str, Arrays]:
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.yaml").write_text(yaml.safe_dump(classes))
    written = {}
    for split, count in counts.items():
        for index in range(count):
            pair = noise(size, ids, seed=len(written))
            save(root / split / "images" / f"photo{index}.png", pair[0])
            save(root / split / "masks" / f"photo{index}.png", pair[1])
            written[f"{split}/photo{index}"] = pair
    return written


# --- the other official layouts: at most three images a split, of different sizes where the data set's differ

STREET = (*range(19), 255)
VARIED = ((40, 60), (60, 40), (48, 48))


def save_palette(path: Path, ids: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    picture.save(path)
    return path


def fill(
    root: Path,
    places: Iterable[tuple[str, str]],
    ids: Iterable[int],
    sizes: Iterable[tuple[int, int]] = ((48, 96),),
    label: Callable[[Path, np.ndarray], Path] = save,
) -> list[Arrays]:
    """An image and a label of noise at each pair of places; what was written, in that order."""
    ids, sizes, written = tuple(ids), tuple(sizes), []
    for number, (image_place, label_place) in enumerate(places):
        image, values = noise(sizes[number % len(sizes)], ids, seed=number)
        save(root / image_place, image)
        label(root / label_place, values)
        written.append((image, values))
    return written


def listed(file: Path, names: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{name}\n" for name in names))


def matlab(path: Path, **arrays: np.ndarray) -> Path:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)
    return path


def cityscapes_coarse(root: Path) -> list[Arrays]:
    """Two cities of train_extra; the third image is the black one."""
    names = ("augsburg_000000_000042", "bayreuth_000001_000019", "troisdorf_000000_000073")
    places = [
        (
            f"leftImg8bit/train_extra/{name.split('_')[0]}/{name}_leftImg8bit.png",
            f"gtCoarse/train_extra/{name.split('_')[0]}/{name}_gtCoarse_labelIds.png",
        )
        for name in names
    ]
    return fill(root, places, (i for i in CITYSCAPES.ids + CITYSCAPES.void if i >= 0))


def camvid32(root: Path) -> list[Arrays]:
    """A frame on each side of every border of the split; labels are the 32 colors' numbers, saved
    as colors.
    """
    colors = np.uint8(
        [color for group in GROUPS.values() for color in group.values()] + [(0, 0, 0)]
    )
    names = ("0001TP_008520", "0006R0_f00930", "0016E5_07920", "0016E5_08190")
    names += ("0016E5_07959", "0016E5_08159")
    names += ("0001TP_008550", "Seq05VD_f00000")
    places = [
        (f"701_StillsRaw_full/{name}.png", f"LabeledApproved_full/{name}_L.png") for name in names
    ]
    return fill(root, places, range(32), ((72, 96),), lambda path, ids: save(path, colors[ids]))


def voc(root: Path) -> dict[str, Arrays]:
    """train has one image, trainaug another one that only SBD labels; the official label of the
    first differs from SBD's.
    """
    places = [
        (f"JPEGImages/2007_00000{number}.jpg", f"SegmentationClass/2007_00000{number}.png")
        for number in (1, 2)
    ]
    first, val = fill(root, places, (*range(21), 255), VARIED, save_palette)
    places = [
        (f"JPEGImages/2007_00000{number}.jpg", f"SegmentationClassAug/2007_00000{number}.png")
        for number in (3, 1)
    ]
    extra, _ = fill(root, places, (0, 20, 255), (VARIED[2], VARIED[0]))
    save(root / "JPEGImages" / "2008_000009.jpg", extra[0])  # in no list
    lists = {
        "train": ("2007_000001",),
        "val": ("2007_000002",),
        "trainaug": ("2007_000003", "2007_000001"),
    }
    for split, names in lists.items():
        listed(root / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    return {"2007_000001": first, "2007_000002": val, "2007_000003": extra}


def context(root: Path) -> list[Arrays]:
    names = ("2008_000002", "2008_000003", "2008_000015")
    places = [(f"JPEGImages/{name}.jpg", f"SegmentationClassContext/{name}.png") for name in names]
    for split, some in (("train", names[:2]), ("val", names[2:])):
        listed(root / "ImageSets" / "SegmentationContext" / f"{split}.txt", some)
    return fill(root, places, range(60), VARIED)


def cocostuff_164k(root: Path) -> list[Arrays]:
    names = [
        f"{split}/{number:012d}"
        for split, count in (("train2017", 2), ("val2017", 1))
        for number in range(count)
    ]
    places = [(f"images/{name}.jpg", f"annotations/{name}.png") for name in names]
    return fill(root, places, (0, 1, 10, 12, 89, 91, 181, 255), VARIED)


def cocostuff_10k(root: Path) -> list[Arrays]:
    """As its zip unpacks: the labels are Matlab files."""
    names = [f"COCO_train2014_{number:012d}" for number in range(3)]
    places = [(f"images/{name}.jpg", f"annotations/{name}.mat") for name in names]
    for split, some in (("train", names[:2]), ("test", names[2:]), ("all", names)):
        listed(root / "imageLists" / f"{split}.txt", some)
    return fill(
        root,
        places,
        (0, 1, 11, 13, 90, 92, 182),
        VARIED,
        lambda path, ids: matlab(path, S=ids.astype(float)),
    )


def ade20k(root: Path) -> list[Arrays]:
    names = [
        f"{folder}_0000000{number}"
        for folder, count in (("training/ADE_train", 2), ("validation/ADE_val", 1))
        for number in range(count)
    ]
    return fill(
        root,
        [(f"images/{name}.jpg", f"annotations/{name}.png") for name in names],
        range(151),
        VARIED,
    )


def bdd100k(root: Path) -> list[Arrays]:
    names = ("train/0004a4c0-d4dff0ad", "train/00054602-3bf57337", "val/7d06fefd-f7be05a6")
    return fill(
        root,
        [(f"images/10k/{name}.jpg", f"labels/sem_seg/masks/{name}.png") for name in names],
        STREET,
    )


def mapillary(root: Path, labels: str = "labels") -> list[Arrays]:
    names = (
        ("training", "0035fkbjWljhaftpVM37-g"),
        ("training", "00qclUcInksIYnm19b1Xfw"),
        ("validation", "-1Wp3-oYOa_d6gHF4Bk8Wg"),
    )
    places = [
        (f"{folder}/images/{name}.jpg", f"{folder}/{labels}/{name}.png") for folder, name in names
    ]
    return fill(root, places, range(66), VARIED, save_palette)


def acdc(root: Path) -> list[Arrays]:
    """Of every condition two images of train, then one of val; no two recordings share their name."""
    places = []
    for number, weather in enumerate(("fog", "night", "rain", "snow")):
        for split, frame in (("train", 247), ("train", 250), ("val", 300)):
            recording = f"GOPR0{number}{'75' if split == 'train' else '76'}"
            name = f"{weather}/{split}/{recording}/{recording}_frame_{frame:06d}"
            places.append((f"rgb_anon/{name}_rgb_anon.png", f"gt/{name}_gt_labelTrainIds.png"))
    return fill(root, places, STREET)


def darkzurich(root: Path) -> list[Arrays]:
    names = [f"val/night/GOPR0356/GOPR0356_frame_{number:06d}" for number in (321, 324)]
    save(
        root / "rgb_anon/val_ref/day/GOPR0356_ref/GOPR0356_frame_000321_ref_rgb_anon.png",
        noise((48, 96), (0,))[0],
    )
    return fill(
        root,
        [(f"rgb_anon/{name}_rgb_anon.png", f"gt/{name}_gt_labelTrainIds.png") for name in names],
        STREET,
    )


def gta5(root: Path) -> list[Arrays]:
    places = [(f"images/{number:05d}.png", f"labels/{number:05d}.png") for number in range(1, 5)]
    matlab(
        root / "split.mat",
        trainIds=np.array([[1], [3]]),
        valIds=np.array([[2]]),
        testIds=np.array([[4]]),
    )
    return fill(root, places, range(35), label=save_palette)
