"""Folders whose labels are drawn: LabelMe's files and COCO's."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from datamodules import Folder
from datamodules.reading.coco import unpacked
from datamodules.reading.polygons import circle_spans, mask_spans, polygon_spans
from tests.support import trees
from tests.support.data import complaint

SIZE = (24, 36)
HEIGHT, WIDTH = SIZE
SQUARE = [[4, 3], [20, 3], [20, 15], [4, 15]]
TRIANGLE = [[10.5, 5.25], [30.0, 12.0], [12.0, 20.5]]
ROAD_AND_SKY = {"classes": ["road", "sky"]}


def slowly(points: list, size: tuple[int, int]) -> np.ndarray:
    """Every pixel by itself: an outline is crossed an odd number of times on the way left."""
    inside = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if (y0 <= y) != (y1 <= y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                inside[row, column] ^= True
    return inside


def covered(spans: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    pixels = np.zeros(size, bool)
    for start, end in spans:
        assert not pixels.ravel()[start:end].any()
        pixels.ravel()[start:end] = True
    return pixels


# --- shapes in pixels


@pytest.mark.parametrize("seed", range(12))
def test_a_polygon_covers_the_pixels_whose_centers_it_contains(seed: int) -> None:
    """Outlines that cross themselves and leave the image, every third on halves of pixels."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((-8, -8), (WIDTH + 8, HEIGHT + 8), (3 + seed % 6, 2))
    if seed % 3 == 0:
        points = np.rint(2 * points) / 2
    expected = slowly(points.tolist(), SIZE)
    assert expected.any()
    assert np.array_equal(covered(polygon_spans(points, SIZE), SIZE), expected)


def test_neighbors_along_a_line_share_no_pixel_and_leave_none() -> None:
    corners = np.array([(-1, -1), (WIDTH + 1, -1), (WIDTH + 1, HEIGHT + 1), (-1, HEIGHT + 1)])
    middle = np.array([13.3, 9.5])
    parts = [
        covered(polygon_spans(np.array([one, other, middle]), SIZE), SIZE)
        for one, other in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    assert (np.sum(parts, axis=0) == 1).all()


@pytest.mark.parametrize("center, radius", [((14.2, 9.7), 6.5), ((2, 3), 8), ((5, 5), 0.0)])
def test_a_circle_covers_the_pixels_whose_centers_it_contains(
    center: tuple[float, float], radius: float
) -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(columns - center[0], rows - center[1])
    assert not np.isclose(distance, radius, atol=1e-9).any()
    spans = circle_spans(np.array(center), radius, SIZE)
    assert np.array_equal(covered(spans, SIZE), distance < radius)


def test_a_mask_is_its_own_spans() -> None:
    mask = np.random.default_rng(0).random(SIZE) < 0.5
    assert np.array_equal(covered(mask_spans(mask), SIZE), mask)


# --- LabelMe


def shape(label: str, points: list, kind: str | None = "polygon", **more: object) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None} | more


def labelme(
    root: Path, shapes: list[dict], classes: object = ROAD_AND_SKY, **fields: object
) -> Path:
    """A folder of one training image, and the file of its shapes."""
    root.mkdir(exist_ok=True)
    (root / "classes.yaml").write_text(yaml.safe_dump(classes))
    trees.save(root / "train/images/photo.jpg", trees.noise(SIZE, (0,))[0])
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": "..\\elsewhere\\photo.jpg",
        "imageData": base64.b64encode(b"the picture").decode(),
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    file = root / "train/images/photo.json"
    file.write_text(json.dumps(content | fields))
    return file


def label_of(root: Path) -> np.ndarray:
    return Folder(root).open("train").label(0)


def test_shapes_of_labelme_lie_over_each_other_in_their_order(tmp_path: Path) -> None:
    patch = np.random.default_rng(1).random((6, 9)) < 0.5
    text = base64.b64encode(cv2.imencode(".png", patch.astype(np.uint8))[1].tobytes()).decode()
    shapes = [
        shape("road", TRIANGLE),
        shape("sky", [[20, 15], [4, 3]], "rectangle"),
        shape("__ignore__", [[7, 6], [9, 6]], "circle"),
        shape("road", [[30, 20], [38, 25]], "mask", mask=text),
        shape("sky", [[20.5, 18], [23, 18], [23, 22]], None),
    ]
    labelme(tmp_path, shapes)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = np.full(SIZE, 255)
    expected[slowly(TRIANGLE, SIZE)] = 0
    expected[3:15, 4:20] = 1
    expected[np.hypot(columns - 7, rows - 6) < 2] = 255
    expected[20:24, 30:36][patch[:4, :6]] = 0  # what goes beyond the image is cut off
    expected[slowly([[20.5, 18], [23, 18], [23, 22]], SIZE)] = 1
    assert np.array_equal(label_of(tmp_path), expected)


def test_a_window_of_a_drawn_label_is_a_part_of_the_whole(tmp_path: Path) -> None:
    labelme(tmp_path, [shape("road", TRIANGLE), shape("sky", SQUARE)])
    source = Folder(tmp_path).open("train")
    (image, label), (part, ids) = source.window(0), source.window(0, (5, 7, 20, 30))
    assert source.size(0) == SIZE and set(np.unique(label)) == {0, 1, 255}
    assert np.array_equal(part, image[5:20, 7:30]) and np.array_equal(ids, label[5:20, 7:30])


@pytest.mark.parametrize(
    "classes, outside",
    [
        (["road", "sky"], 255),
        (["road", "_background_", "sky"], 1),
        (["background", "road", "sky"], 0),
        ({"classes": ["road", "wall", "sky"], "background": "wall"}, 1),
        ({"classes": ["road", "background", "sky"], "background": "sky"}, 2),
        (["road", {"name": "sky", "id": 9}, {"name": "background", "id": 7}], 2),
    ],
)
def test_pixels_of_no_polygon_are_the_background_where_there_is_one(
    tmp_path: Path, classes: object, outside: int
) -> None:
    labelme(tmp_path, [], classes)
    assert (label_of(tmp_path) == outside).all()


def test_a_name_may_be_ignored(tmp_path: Path) -> None:
    classes = {"classes": ["background", "road"], "ignore": ["glare", 7]}
    labelme(tmp_path, [shape("road", SQUARE), shape("glare", TRIANGLE)], classes)
    label = label_of(tmp_path)
    assert (label[slowly(TRIANGLE, SIZE)] == 255).all() and set(np.unique(label)) == {0, 1, 255}


def test_a_label_that_is_drawn_needs_a_number_for_what_is_ignored(tmp_path: Path) -> None:
    labelme(tmp_path, [shape("road", SQUARE)], [{"name": "road", "id": 255}])
    complaint(lambda: label_of(tmp_path), "classes.yaml makes a class of 255", "ignore: [254]")
    classes = {"classes": [{"name": "road", "id": 255}], "ignore": [254]}
    labelme(tmp_path, [shape("road", SQUARE)], classes)
    assert np.array_equal(label_of(tmp_path) == 0, slowly(SQUARE, SIZE))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (shape("raod", SQUARE), ["region named raod", "did you mean road?", "rename it"]),
        (shape("road", SQUARE[:2]), ["(road) is a polygon of 2 points, and needs 3"]),
        (shape("road", SQUARE[:1], "circle"), ["circle of 1 points, and needs 2"]),
        (shape("road", SQUARE[:2], "line"), ["is a line, which covers no pixels", "delete it"]),
        (shape("road", SQUARE[:2], "mask", mask="!"), ["shape 2 (road) is a mask without a PNG"]),
        (shape("road", [["a", 1]]), ["shapes.1.points.0.0", "save again"]),
        ({"points": SQUARE}, ["shapes.1.label: Field required"]),
    ],
)
def test_a_wrong_shape_is_named_with_its_file(
    tmp_path: Path, wrong: dict, words: list[str]
) -> None:
    file = labelme(tmp_path, [shape("sky", SQUARE), wrong])
    complaint(lambda: label_of(tmp_path), str(file), *words)


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "Invalid JSON"),
        ('{"imageHeight": 24, "imageWidth": 36}', "shapes: Field required"),
        ('{"shapes": [], "imageHeight": null, "imageWidth": 36}', "imageHeight"),
    ],
)
def test_a_file_that_labelme_did_not_write_is_named(
    tmp_path: Path, content: str, words: str
) -> None:
    file = labelme(tmp_path, [])
    file.write_text(content)
    complaint(lambda: label_of(tmp_path), str(file), words, "open the image in LabelMe")


def test_an_image_of_another_size_than_its_file_is_named(tmp_path: Path) -> None:
    file = labelme(tmp_path, [shape("road", SQUARE)], imageWidth=40)
    complaint(
        lambda: Folder(tmp_path).open("train"), "photo.jpg is 24x36", f"{file} is 24x40", "EXIF"
    )


def test_an_image_without_a_file_and_a_file_without_image_are_named(tmp_path: Path) -> None:
    file = labelme(tmp_path, [])
    other = trees.save(tmp_path / "train/images/other.jpg", np.zeros((*SIZE, 3), np.uint8))
    complaint(lambda: Folder(tmp_path).open("train"), str(other), "save it in LabelMe")
    other.unlink()
    file.with_name("lonely.json").write_text(file.read_text())
    complaint(lambda: Folder(tmp_path).open("train"), "lonely.json has no image")


# --- COCO

PACKED = (  # by pycocotools 2.0: masks of formulas, the second's runs above 31 and falling
    ("011010010O00O000001010O00010N01010O0010OO0110O0010O0O020O00010O0O0000010010O00O0", (9, 13)),
    (
        "i`07n06K4L4M2N2N2N2O0O2O0O]OM42I44LK64IL94FK<4DL<4DL<4DK>4BL>4BL>4CK=4DL<4DM:4GK94HL84IL54L"
        "M24OLO43NG4;;2N3L4L5Jb>",
        (40, 60),
    ),
)


def formula(size: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    if size == (9, 13):
        return (rows * 7 + columns * 13) % 11 < 4
    ring = (rows - 20) ** 2 + (columns - 30) ** 2 < 300
    return ring ^ ((rows - 18) ** 2 + (columns - 33) ** 2 < 90)


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of zeros, ones, zeros, ..., column by column."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("text, size", PACKED)
def test_packed_run_lengths_are_those_that_pycocotools_packed(
    text: str, size: tuple[int, int]
) -> None:
    assert unpacked(text) == runs_of(formula(size))


def outline(points: list) -> list[float]:
    return [number for point in points for number in point]


def annotation(category: int, segmentation: object, **more: object) -> dict:
    return {
        "id": 7,
        "image_id": 1,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": 0,
    } | more


def coco(
    root: Path,
    annotations: list[dict],
    size: tuple[int, int] = SIZE,
    change: Callable[[dict], object] = lambda content: None,
) -> Path:
    """A folder of two training images, of which the first has the annotations."""
    names = ("first", "second")
    for name in names:
        trees.save(root / f"train/images/{name}.jpg", trees.noise(size, (0,))[0])
    content = {
        "images": [
            {"id": id, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}
            for id, name in enumerate(names, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 18, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    change(content)
    file = root / "train/instances.json"
    file.write_text(json.dumps(content))
    return file


def test_categories_are_the_classes_where_no_yaml_says_otherwise(tmp_path: Path) -> None:
    coco(tmp_path, [annotation(3, [outline(TRIANGLE)])])
    data = Folder(tmp_path)
    assert data.class_names == ("background", "cat", "dog")
    assert np.array_equal(data.open("train").label(0), 2 * slowly(TRIANGLE, SIZE))
    assert not data.open("train").label(1).any()
    (tmp_path / "classes.yaml").write_text("[dog, cat]")
    expected = np.where(slowly(TRIANGLE, SIZE), 0, 255)
    assert np.array_equal(Folder(tmp_path).open("train").label(0), expected)


def test_a_category_named_background_is_the_background(tmp_path: Path) -> None:
    coco(tmp_path, [], change=lambda content: content["categories"][0].update(name="background"))
    data = Folder(tmp_path)
    assert data.class_names == ("background", "dog") and not data.open("train").label(0).any()


def test_smaller_regions_lie_over_larger_ones_and_all_over_crowds(tmp_path: Path) -> None:
    """The crowd's lengths are numbers; an annotation may have several parts."""
    crowd = np.zeros(SIZE, bool)
    crowd[4:, 15:] = True
    parts = [outline(SQUARE), outline([[25, 1], [34, 1], [34, 4]])]
    annotations = [
        annotation(3, [outline(TRIANGLE)], area=140.0),
        annotation(18, parts, area=206.0),
        annotation(3, {"counts": runs_of(crowd), "size": SIZE}, area=9.0, iscrowd=1),
    ]
    coco(tmp_path, annotations)
    expected = 2 * crowd
    expected[slowly(SQUARE, SIZE) | slowly([[25, 1], [34, 1], [34, 4]], SIZE)] = 1
    expected[slowly(TRIANGLE, SIZE)] = 2
    assert np.array_equal(label_of(tmp_path), expected)
    coco(tmp_path, [each | {"area": None, "iscrowd": 0} for each in annotations])
    expected[slowly(SQUARE, SIZE) & slowly(TRIANGLE, SIZE)] = 1  # without areas as in the file
    expected[crowd] = 2
    assert np.array_equal(label_of(tmp_path), expected)


@pytest.mark.parametrize("text, size", PACKED)
def test_packed_run_lengths_become_a_region(
    tmp_path: Path, text: str, size: tuple[int, int]
) -> None:
    coco(tmp_path, [annotation(18, {"counts": text, "size": size}, iscrowd=1)], size)
    assert np.array_equal(label_of(tmp_path), formula(size))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            annotation(3, [[1, 2, 3, 4]]),
            "annotation 7 has a polygon of 4 numbers, and needs x and y",
        ),
        (annotation(3, [[1, 2, 3, 4, 5, 6, 7]]), "polygon of 7 numbers"),
        (annotation(3, []), "has a box and no segmentation"),
        (annotation(3, {"counts": [5, 5], "size": SIZE}), "run lengths of 10 pixels"),
        (annotation(3, {"counts": "2000", "size": SIZE}), "its image is 24x36"),
        (annotation(3, {"counts": [0, 864], "size": [36, 24]}), "for size (36, 24)"),
        (annotation(4, [outline(SQUARE)]), "annotation 7 is of category 4, which is not listed"),
        (annotation(3, [outline(SQUARE)], image_id=9), "is of image 9, which is not listed"),
        (annotation(3, "SQUARE"), "annotations.0.segmentation"),
    ],
)
def test_a_wrong_annotation_is_named_with_its_file(tmp_path: Path, wrong: dict, words: str) -> None:
    file = coco(tmp_path, [wrong])
    complaint(lambda: label_of(tmp_path), str(file), words)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda content: content.pop("images"), "images: Field required"),
        (lambda content: content.update(images=[]), "images: List should have at least 1 item"),
        (lambda content: content["images"][0].update(file_name="a/second.png"), "named second"),
        (
            lambda content: content["images"].append(
                {**content["images"][0], "file_name": "x.jpg"}
            ),
            "instances.json (x.jpg) has no image",
        ),
        (lambda content: content["images"].pop(), "second.jpg has no label"),
        (lambda content: content["images"][0].update(height=9), "first.jpg is 24x36"),
    ],
)
def test_a_wrong_list_of_images_is_named(
    tmp_path: Path, change: Callable[[dict], object], words: str
) -> None:
    coco(tmp_path, [], change=change)
    complaint(lambda: Folder(tmp_path).open("train").window(0), "instances.json", words)


def test_two_coco_files_of_a_split_are_refused(tmp_path: Path) -> None:
    file = coco(tmp_path, [])
    file.with_name("more.json").write_text(file.read_text())
    complaint(lambda: Folder(tmp_path).open("train"), "instances.json", "more.json", "keep the one")


# --- both in the rest of the project


@pytest.mark.parametrize("kind", ["labelme", "coco"])
def test_packs_and_shares_of_drawn_labels_hold_the_same(tmp_path: Path, kind: str) -> None:
    from experiments import pack

    root = tmp_path / "own"
    root.mkdir()
    if kind == "labelme":
        file = labelme(root, [shape("road", TRIANGLE), shape("sky", SQUARE)])
        file.with_name("again.json").write_text(file.read_text())
        photo = file.with_suffix(".jpg")
        photo.with_name("again.jpg").write_bytes(photo.read_bytes())
    else:
        coco(root, [annotation(3, [outline(TRIANGLE)]), annotation(18, [outline(SQUARE)])])
    words = ["--data", "folder", f"data.root={root}", "data.val_share=0.5", "--workers", "1"]
    assert pack.main([*words, "--form", "raw", "--out", str(tmp_path / "packs")]) == 0
    plain, packed = (Folder(each, val_share=0.5) for each in (root, tmp_path / "packs"))
    assert packed.class_names == plain.class_names
    for split in ("train", "val"):
        (image, label), (other, ids) = (each.open(split).window(0) for each in (plain, packed))
        assert len(plain.open(split)) == len(packed.open(split)) == 1
        assert np.array_equal(image, other) and np.array_equal(label, ids)


def test_the_check_names_what_is_wrong_with_drawn_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from experiments import check_data

    words = ["--data", "folder", f"data.root={tmp_path}", "--splits", "train", "--workers", "1"]
    file = labelme(tmp_path, [shape("road", SQUARE)])
    assert check_data.main(words) == 1
    assert "background: NAME" in capsys.readouterr().out
    labelme(tmp_path, [shape("road", TRIANGLE), shape("sky", SQUARE)])
    assert check_data.main(words) == 0
    assert "1 train images read: no problem" in capsys.readouterr().out
    labelme(tmp_path, [shape("raod", SQUARE)], imageWidth=40)
    assert check_data.main(words) == 1
    assert f"{file} has a region named raod" in capsys.readouterr().out
