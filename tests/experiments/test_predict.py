"""Tests of predict.py: it writes the network's label map in every form, for every kind of image.

Existing files are left alone.
"""

import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from datamodules.labels import CAMVID, CITYSCAPES, LabelSet
from experiments.command_line import parser
from experiments.drawing.label_images import legend, overlay
from experiments.prediction import outputs
from experiments.prediction import predictor as predictor_module
from experiments.prediction.images import check_images, read_batches
from experiments.prediction.predictor import Predictor, entropy, maps_of, prepare_out, write_picture
from segmodels.inference_modes import Strips
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import from_checkpoint
from segmodels.released_checkpoints import from_released
from tests.support.checkpoints import BAD, state, written
from tests.support.extras import onnx
from tests.support.pictures import noise, picture, predicted, read, refused, run

PALETTE = np.array(CITYSCAPES.palette, np.uint8)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SegmentationModule]:
    file = tmp_path_factory.mktemp("network") / "streets.ckpt"
    torch.manual_seed(
        0
    )  # of some random weights a class is nowhere likely enough to be seen in 8 bits
    return file, written(file).fast_form()  # its logits are so large that rounding shows


# --- what is written


def test_an_image_becomes_its_label_map_its_colors_and_an_overlay(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    file, module = network
    image, out = picture(tmp_path / "street.png"), tmp_path / "out"
    assert run(file, tmp_path / "street.png", "--out", out, "--strength", 0.25) == 0
    label, color, mixed = (
        read(out / kind / "street.png") for kind in ("label", "color", "overlay")
    )
    assert label.dtype == np.uint8 and len(np.unique(label)) > 1
    assert np.array_equal(label, predicted(module, image))
    assert np.array_equal(
        label, module.label_map(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0].numpy()
    )
    for row, column in np.ndindex(label.shape):  # colors decode back through the palette
        assert CITYSCAPES.palette.index(tuple(color[row, column].tolist())) == label[row, column]
    assert np.array_equal(mixed, (0.75 * image + 0.25 * PALETTE[label]).astype(np.uint8))
    files = {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()}
    assert files == {"label/street.png", "color/street.png", "overlay/street.png", "legend.png"}


@pytest.mark.parametrize(("strength", "shows"), [(0, "image"), (1, "colors")])
def test_strength_runs_from_the_image_to_the_colors(
    strength: int, shows: str, network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    image = picture(tmp_path / "street.png")
    assert run(network[0], tmp_path / "street.png", "--out", tmp_path, "--strength", strength) == 0
    expected = image if shows == "image" else read(tmp_path / "color" / "street.png")
    assert np.array_equal(read(tmp_path / "overlay" / "street.png"), expected)


@pytest.mark.parametrize("strength", [0, 0.3, 0.55, 1])
def test_an_overlay_mixes_every_value_with_every_color_and_shows_the_image_where_ignored(
    strength: float,
) -> None:
    values = np.arange(256, dtype=np.uint8)
    image, label = (
        np.broadcast_to(values[None, :, None], (256, 256, 3)),
        np.broadcast_to(values[:, None], (256, 256)),
    )
    colors = np.zeros((256, 256, 3))
    colors[:19] = PALETTE[:, None]
    expected = np.where(
        (label == 255)[..., None],
        image,
        ((1 - strength) * image + strength * colors).astype(np.uint8),
    )
    assert np.array_equal(overlay(image, label, CITYSCAPES.palette, strength), expected)


def test_folders_keep_their_tree_and_every_size_and_name_is_taken(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    file, module = network
    sizes = {
        "a.png": (1, 1),
        "deep/er/b.bmp": (1, 7),
        "deep/c d (é).png": (5, 3),
        "deep/通り.webp": (33, 65),
        "e.tar.PNG": (101, 67),
    }
    images = {
        name: picture(tmp_path / "in" / name, noise(*size), lossless=True)
        for name, size in sizes.items()
    }
    images["other one.tif"] = picture(tmp_path / "other one.tif", noise(40, 41))
    picture(tmp_path / "in" / ".hidden.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert run(file, tmp_path / "in", "--out", tmp_path / "out", tmp_path / "other one.tif") == 0
    labels = {
        str(each.relative_to(tmp_path / "out" / "label"))
        for each in (tmp_path / "out" / "label").rglob("*.*")
    }
    assert labels == {str(Path(name).with_suffix(".png")) for name in images}
    for name, image in images.items():
        label = read((tmp_path / "out" / "label" / name).with_suffix(".png"))
        assert label.shape == image.shape[:2]
        assert np.array_equal(label, predicted(module, image))


def test_the_inference_mode_is_the_one_that_was_asked_for(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    file, module = network
    image, asked = picture(tmp_path / "street.png"), "multiscale:0.5,1.5+flip"
    assert run(file, tmp_path / "street.png", "--out", tmp_path, "--inference", asked) == 0
    assert np.array_equal(read(tmp_path / "label" / "street.png"), predicted(module, image, asked))
    assert not np.array_equal(predicted(module, image, asked), predicted(module, image))


@pytest.mark.slow
def test_a_network_predicts_with_another_option_than_it_was_trained_with(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(tmp_path / "last.ckpt", address="emanet/resnet50")
    image = picture(tmp_path / "street.png")
    words = (tmp_path / "last.ckpt", tmp_path / "street.png", "model.eval_iterations=1", "--out")
    assert run(*words, tmp_path / "out") == 0
    label = read(tmp_path / "out" / "label" / "street.png")
    one = from_checkpoint(tmp_path / "last.ckpt", model={"eval_iterations": 1})
    assert np.array_equal(label, predicted(one, image))
    assert not np.array_equal(label, predicted(from_checkpoint(tmp_path / "last.ckpt"), image))
    for word, answer in (
        ("model.eval_iteration=1", "did you mean model.eval_iterations"),
        ("model.eval_iterations=much", "it takes a whole number"),
        ("model.bases=32", "makes another network than the one in"),
    ):
        words = (tmp_path / "last.ckpt", tmp_path / "street.png", word, "--out", tmp_path / "not")
        assert run(*words) == 2
        assert answer in capsys.readouterr().err
    assert run(tmp_path / "last.ckpt", "model.bases=32", "--out", tmp_path / "not") == 2
    assert "name an image or a video too" in capsys.readouterr().err


def shares(module: SegmentationModule, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return (
            module(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0]
            .double()
            .softmax(0)
            .numpy()
        )


@pytest.mark.parametrize("inference", ["whole", "flip"])
def test_probability_and_entropy_are_those_of_the_plain_softmax(
    inference: str, network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    """Images higher than a block of rows; of flip, the mean of an image and its mirror."""
    image = picture(tmp_path / "street.png", noise(300, 70))
    expected = shares(network[1], image)
    if inference == "flip":
        expected = (expected + shares(network[1], image[:, ::-1])[..., ::-1]) / 2
    name = CITYSCAPES.names[
        expected.std((1, 2)).argmax()
    ]  # an untrained network is sure that most classes are nowhere
    kinds = f"probability,entropy,probability:{name}"
    assert (
        run(
            network[0],
            tmp_path / "street.png",
            "--out",
            tmp_path / "out",
            "--kinds",
            kinds,
            "--inference",
            inference,
        )
        == 0
    )
    entropy = -(expected * np.log(np.maximum(expected, 1e-300))).sum(0) / np.log(19)
    single = expected[CITYSCAPES.names.index(name)]
    for folder, values in {
        "probability": expected.max(0),
        "entropy": entropy,
        f"probability-{name}": single,
    }.items():
        found = read(tmp_path / "out" / folder / "street.png")
        assert found.dtype == np.uint8 and np.abs(found - 255 * values).max() <= 0.51
        assert found.std() > 0.3
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "probability",
        "entropy",
        f"probability-{name}",
    }


def test_certain_is_black_and_all_alike_is_white_in_the_entropy() -> None:
    for logits, expected in ((torch.tensor([900.0, 0, 0]), 0), (torch.zeros(3), 255)):
        strips = Strips(
            (2, 2),
            lambda top, bottom, logits=logits: logits[None, :, None, None].expand(
                1, 3, bottom - top, 2
            ),
        )
        assert (maps_of(strips, {"entropy": entropy})["entropy"] == expected).all()


def test_only_the_kinds_that_were_asked_for_are_written(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    image = picture(tmp_path / "street.png")
    assert (
        run(network[0], tmp_path / "street.png", "--out", tmp_path / "out", "--kinds", "ids") == 0
    )
    assert [
        str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")
    ] == ["ids/street.png"]
    assert np.array_equal(
        read(tmp_path / "out" / "ids" / "street.png"),
        np.array(CITYSCAPES.ids)[predicted(network[1], image)],
    )


def test_a_batch_predicts_what_its_images_do_alone(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    for number, size in enumerate([(48, 64), (50, 70), (48, 64), (48, 64), (50, 70), (48, 64)]):
        picture(tmp_path / "in" / f"{number}.png", noise(*size, seed=number))
    for out, batch in (("alone", 1), ("three", 3)):
        assert (
            run(
                network[0],
                tmp_path / "in",
                "--out",
                tmp_path / out,
                "--batch",
                batch,
                "--kinds",
                "label,probability",
            )
            == 0
        )
    for number in range(6):
        assert np.array_equal(
            read(tmp_path / "three" / "label" / f"{number}.png"),
            read(tmp_path / "alone" / "label" / f"{number}.png"),
        )
        one, other = (
            read(tmp_path / out / "probability" / f"{number}.png").astype(int)
            for out in ("three", "alone")
        )
        assert np.abs(one - other).max() <= 1  # sums in another order may round otherwise


def test_only_images_of_one_size_go_through_together(tmp_path: Path) -> None:
    targets = []
    for number, size in enumerate([(4, 6), (6, 4), (4, 6), (4, 6), (4, 6), (6, 4), (5, 5)]):
        file = tmp_path / f"{number}.png"
        picture(file, noise(*size))
        targets.append((file, Path(file.name)))
    for most, expected in ((3, [[0, 2, 3], [4], [1, 5], [6]]), (1, [[n] for n in range(7)])):
        together = check_images(targets, most, [])
        numbers = []
        for images, batch in read_batches(together, most, []):
            assert len(images) == len(batch) and len({image.shape for image in images}) == 1
            numbers.append([int(file.stem) for file, _ in batch])
        assert numbers == expected


def test_a_pattern_keeps_the_folders_below_its_fixed_part(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    names = [
        "one/front/a.png",
        "one/back/a.png",
        "two/front/a.JPG",
        "two/front/b.png",
        "two/front/notes.txt",
        "two/front/.c.png",
    ]
    for name in names:
        picture(tmp_path / "drives" / name) if not name.endswith("txt") else (
            tmp_path / "drives" / name
        ).touch()
    assert (
        run(
            network[0],
            tmp_path / "drives" / "**" / "front" / "*",
            "--out",
            tmp_path / "out",
            "--kinds",
            "label",
        )
        == 0
    )
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")}
    assert found == {"label/one/front/a.png", "label/two/front/a.png", "label/two/front/b.png"}


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    for name in ("a[1].png", "a1.png"):
        picture(tmp_path / name)
    assert (
        run(network[0], tmp_path / "a[1].png", "--out", tmp_path / "out", "--kinds", "label") == 0
    )
    assert [file.name for file in (tmp_path / "out" / "label").iterdir()] == ["a[1].png"]


def test_a_full_disk_is_one_sentence(
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "label.png")

    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(predictor_module, "save", full)
    assert run(network[0], tmp_path / "in", "--out", tmp_path / "out", "--kinds", "label") == 2
    assert capsys.readouterr().err == (
        "error: nothing more can be written (No space left on device); "
        "make room, and give the command again\n"
    )


def test_a_picture_that_the_disk_did_not_take_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(picture: Image.Image, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_picture(noise(5, 7), tmp_path / "a.png")
    with pytest.raises(OSError, match="No space left on device"):
        key = legend(CITYSCAPES.names, CITYSCAPES.palette)
        prepare_out(tmp_path, SimpleNamespace(kinds=("color",), legend=key))
    assert not list(tmp_path.iterdir())


def test_ctrl_c_stops_between_pictures_in_one_line(
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    real = Predictor.__call__

    def pressed(self: Predictor, images: list[np.ndarray]) -> list[dict]:
        if self.passes:
            raise KeyboardInterrupt
        return real(self, images)

    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(Predictor, "__call__", pressed)
    assert run(network[0], tmp_path / "in", "--out", tmp_path / "out", "--kinds", "label") == 130
    assert capsys.readouterr().err == "\nstopped; what is written is whole\n"
    assert {file.name for file in (tmp_path / "out" / "label").iterdir()} <= {"a.png"}


def test_the_network_alone_is_never_slower_than_with_reading_and_writing() -> None:
    module = SimpleNamespace(device=torch.device("cpu"))
    predictor = SimpleNamespace(module=module, count=lambda: 5)
    predictor.passes = [(4, 1.0), (1, 9.0)]  # one image of another size after a batch
    assert Predictor.speed(predictor, "images", 10.0).startswith(
        "0.5 images/s through the network alone, 0.5 with reading and writing (CPU, "
    )
    predictor.passes = [(1, 9.0), (4, 1.0)]  # a slow first pass warms up
    assert Predictor.speed(predictor, "images", 10.0).startswith(
        "4 images/s through the network alone, 0.5 with"
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_precision_is_the_one_that_was_asked_for(precision: str, tmp_path: Path) -> None:
    module, image = (
        written(tmp_path / "half.ckpt", precision="bf16-mixed").fast_form(),
        picture(tmp_path / "street.png", noise(120, 160)),
    )
    assert (
        run(
            tmp_path / "half.ckpt",
            tmp_path / "street.png",
            "--out",
            tmp_path / "out",
            "--precision",
            precision,
        )
        == 0
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        assert np.array_equal(
            read(tmp_path / "out" / "label" / "street.png"), predicted(module, image)
        )


def test_a_network_trained_in_half_precision_predicts_in_it(tmp_path: Path) -> None:
    module, image = (
        written(tmp_path / "half.ckpt", precision="bf16-mixed").fast_form(),
        picture(tmp_path / "street.png", noise(120, 160)),
    )
    assert run(tmp_path / "half.ckpt", tmp_path / "street.png", "--out", tmp_path) == 0
    with torch.autocast("cpu", torch.bfloat16):
        half = predicted(module, image)
    assert not np.array_equal(half, predicted(module, image))
    assert np.array_equal(read(tmp_path / "label" / "street.png"), half)


def test_the_authors_checkpoint_predicts_by_its_papers_protocol_in_the_colors_of_its_data(
    tmp_path: Path,
) -> None:
    image = picture(tmp_path / "street.png", noise(200, 300))
    torch.save(state("stdc1_seg"), tmp_path / "stdc1.pth")
    network = f"released:stdc1_seg={tmp_path / 'stdc1.pth'}"
    assert (
        run(network, tmp_path / "street.png", "--out", tmp_path / "out", "--kinds", "ids,color")
        == 0
    )
    module = from_released("stdc1_seg", state("stdc1_seg"))
    label = predicted(module, image, module.recipe.inference)
    assert np.array_equal(
        read(tmp_path / "out" / "ids" / "street.png"), np.array(CITYSCAPES.ids)[label]
    )
    assert np.array_equal(read(tmp_path / "out" / "color" / "street.png"), PALETTE[label])


def test_predictions_are_judged_as_evaluate_judges_them(smoke_run: Path, tmp_path: Path) -> None:
    from segmodels.own_checkpoints import from_checkpoint

    image = picture(tmp_path / "street.png", noise(64, 128))
    for which, words in {"best": (), "last": ("--checkpoint", "last")}.items():
        assert run(smoke_run, tmp_path / "street.png", *words, "--out", tmp_path / which) == 0
        module = from_checkpoint(smoke_run / "checkpoints" / f"{which}.ckpt").fast_form()
        half = module.recipe.precision == "bf16-mixed"
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            label = predicted(module, image)
        assert np.array_equal(read(tmp_path / which / "label" / "street.png"), label)


def test_the_legend_shows_each_class_in_its_color() -> None:
    for names in (
        CITYSCAPES.names,
        ("only",),
        tuple(f"a class with quite a long name, number {index}" for index in range(70)),
    ):
        colors = [(index * 3, 255 - index * 3, 100 + index) for index in range(len(names))]
        sheet = np.asarray(legend(names, colors))
        places = [np.argwhere((sheet == color).all(-1)) for color in colors]
        assert all(len(place) >= 200 for place in places)
        order = [tuple(place.mean(0)[::-1].round(2)) for place in places]
        assert order == sorted(order)  # column by column, from above
        wide = max(int(place[:, 1].max()) for place in places)
        assert (sheet[:, -2:] == 255).all() and (
            sheet[:, wide + 4 :] < 128
        ).any()  # names are not cut off


# --- kinds of pictures


def test_a_turned_photograph_is_segmented_upright(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture(tmp_path / "photo.jpg", noise(40, 60), exif=exif)
    assert run(network[0], tmp_path / "photo.jpg", "--out", tmp_path) == 0
    upright = np.rot90(np.asarray(Image.open(tmp_path / "photo.jpg")), -1)
    assert np.array_equal(read(tmp_path / "label" / "photo.png"), predicted(network[1], upright))


# --- what is refused


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint_is_refused_in_one_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write, words = BAD[kind]
    write(tmp_path / "bad.ckpt")
    picture(tmp_path / "street.png")
    sentence = refused(
        capsys, tmp_path, tmp_path / "bad.ckpt", tmp_path / "street.png", "--out", tmp_path / "out"
    )
    assert str(tmp_path / "bad.ckpt") in sentence and words in sentence


def cut(file: Path, share: float = 0.5) -> None:
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


def bomb(file: Path) -> None:
    """A header that promises 2.5 billion pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:22] = data[22:26] = (50_000).to_bytes(4, "little")
    file.write_bytes(data)


def noise_frame(seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(20, 30, seed))


UNREADABLE = {
    "text.png": lambda file: file.write_text("no image"),
    "empty.jpg": lambda file: file.touch(),
    "cut.jpg": lambda file: (picture(file), cut(file)),
    "cut.png": lambda file: (picture(file), cut(file)),
    "cut in its header.png": lambda file: (picture(file), cut(file, 0.05)),
    "animated.webp": lambda file: noise_frame().save(
        file, save_all=True, append_images=[noise_frame(1)]
    ),
    "float.tif": lambda file: picture(file, Image.fromarray(np.ones((4, 4), np.float32))),
    "bomb.bmp": bomb,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_one_unreadable_image_is_named_before_any_is_predicted(
    name: str,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    picture(tmp_path / "in" / "a good one.png")
    UNREADABLE[name](tmp_path / "in" / name)
    sentence = refused(capsys, tmp_path, network[0], tmp_path / "in", "--out", tmp_path / "out")
    assert (
        f"1 image cannot be read: {tmp_path / 'in' / name} (" in sentence
        and "leave out" in sentence
    )


def spoiled(file: Path) -> None:
    """Header and end are those of a whole image; its pixels are not."""
    picture(file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_that_is_damaged_inside_stops_no_other(
    batch: int,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    images = {
        name: picture(tmp_path / "in" / f"{name}.png", noise(50, 70, seed))
        for seed, name in enumerate("abd")
    }
    spoiled(tmp_path / "in" / "c.png")
    assert (
        run(
            network[0],
            tmp_path / "in",
            "--out",
            tmp_path / "out",
            "--kinds",
            "label",
            "--batch",
            batch,
        )
        == 2
    )
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: 1 of 4 images left out: {tmp_path / 'in' / 'c.png'} (")
    assert printed.err.count("\n") == 1 and printed.out.startswith("3 images: ")
    assert {file.name for file in (tmp_path / "out" / "label").iterdir()} == {
        "a.png",
        "b.png",
        "d.png",
    }
    for name, image in images.items():
        assert np.array_equal(
            read(tmp_path / "out" / "label" / f"{name}.png"), predicted(network[1], image)
        )
    picture(tmp_path / "in" / "c.png")  # replaced, and predicted alone, as the sentence says
    assert (
        run(network[0], tmp_path / "in" / "c.png", "--out", tmp_path / "out", "--kinds", "label")
        == 0
    )


def test_when_every_image_is_damaged_there_is_only_the_sentence(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spoiled(tmp_path / "in" / "a.png")
    assert run(network[0], tmp_path / "in", "--out", tmp_path / "out", "--kinds", "label") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: 1 of 1 image left out") and printed.out == ""


def test_unreadable_images_are_all_named_and_left_out_if_asked(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = [tmp_path / "in" / f"{number} - {name}" for number, name in enumerate(UNREADABLE)]
    for file in bad:
        file.parent.mkdir(parents=True, exist_ok=True)
        UNREADABLE[file.name.partition(" - ")[2]](file)
    words = (network[0], tmp_path / "in", "--out", tmp_path / "out", "--kinds", "label")
    assert f"{len(bad)} images cannot be read" in refused(
        capsys, tmp_path, *words, "--skip-unreadable"
    )  # none is left
    picture(tmp_path / "in" / "good.png")
    sentence = refused(capsys, tmp_path, *words)
    assert all(f"{file} (" in sentence for file in bad) and "give --skip-unreadable" in sentence
    assert run(*words, "--skip-unreadable") == 2
    said = capsys.readouterr().err
    assert f"{len(bad)} of {len(bad) + 1} images left out" in said and all(
        f"{file} (" in said for file in bad
    )
    assert [file.name for file in (tmp_path / "out").rglob("*.png")] == ["good.png"]


def test_what_was_stopped_goes_on_with_the_images_that_are_missing(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for seed, name in enumerate("abc"):
        picture(tmp_path / "in" / f"{name}.png", noise(40, 50, seed))
    words = (network[0], tmp_path / "in", "--out", tmp_path / "out", "--kinds", "label,color")
    assert run(*words) == 0
    whole = {
        file.relative_to(tmp_path): file.read_bytes() for file in (tmp_path / "out").rglob("*.png")
    }
    (
        tmp_path / "out" / "color" / "b.png"
    ).unlink()  # one kind of it was written when it was stopped
    for kind in ("label", "color"):
        (tmp_path / "out" / kind / "c.png").unlink()
    untouched = (tmp_path / "out" / "label" / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert "or --skip-existing to go on" in refused(capsys, tmp_path, *words)
    assert run(*words, "--skip-existing") == 0
    printed = capsys.readouterr().out
    assert "1 of 3 images are predicted already" in printed and "2 images: " in printed
    assert {
        file.relative_to(tmp_path): file.read_bytes() for file in (tmp_path / "out").rglob("*.png")
    } == whole
    assert (tmp_path / "out" / "label" / "a.png").stat().st_mtime_ns == untouched
    assert run(*words, "--skip-existing") == 0
    assert capsys.readouterr().out == "3 of 3 images are predicted already\n"
    sentence = refused(
        capsys, tmp_path, network[0], "camera:0", "--out", tmp_path / "out", "--skip-existing"
    )
    assert "--skip-existing is for images" in sentence


def test_each_image_is_decoded_once(
    network: tuple[Path, SegmentationModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, real = [], ImageFile.ImageFile.load

    def load(image: ImageFile.ImageFile) -> object:
        if image.tile:  # not yet decoded
            decoded.append(image.format)
        return real(image)

    for name in ("a.png", "b.jpg", "d.png"):
        picture(tmp_path / "in" / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert (
        run(
            network[0], tmp_path / "in", "--out", tmp_path / "out", "--kinds", "label", "--batch", 2
        )
        == 0
    )
    assert sorted(decoded) == ["JPEG", "PNG", "PNG"]


def test_a_picture_turned_behind_its_pixels_goes_through_by_itself(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    """A PNG's EXIF note may follow its pixels, where reading the header does not meet it."""
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png", noise(50, 70, seed=ord(name)))
    file, note = tmp_path / "in" / "b.png", Image.Exif()
    note[274] = 6
    chunk = b"eXIf" + note.tobytes().removeprefix(b"Exif\0\0")
    data = file.read_bytes()
    file.write_bytes(
        data[:-12]
        + struct.pack(">I", len(chunk) - 4)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + data[-12:]
    )
    assert (
        run(
            network[0], tmp_path / "in", "--out", tmp_path / "out", "--kinds", "label", "--batch", 3
        )
        == 0
    )
    for name, turns in {"a": 0, "b": -1, "c": 0}.items():
        image = np.rot90(noise(50, 70, seed=ord(name)), turns)
        assert np.array_equal(
            read(tmp_path / "out" / "label" / f"{name}.png"), predicted(network[1], image)
        )


def test_places_without_images_are_answered_with_what_is_there(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture(tmp_path / "street.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    assert f"{tmp_path / 'empty'} holds no image; images end in .png" in refused(
        capsys, tmp_path, network[0], tmp_path / "empty", "--out", tmp_path / "out"
    )
    sentence = refused(
        capsys, tmp_path, network[0], tmp_path / "steret.png", "--out", tmp_path / "out"
    )
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert f"there is no image or folder {tmp_path / 'gone.png'}; give" in refused(
        capsys, tmp_path, network[0], tmp_path / "gone.png", "--out", tmp_path / "out"
    )
    assert (
        f"there is no image or folder {tmp_path / 'steret.png'} (did you mean {tmp_path / 'street.png'}?)"
        in sentence
    )


def test_what_is_hidden_is_not_predicted(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    for name in ("in/a.png", "in/.b.png", "in/.thumbnails/c.png", "in/d/.e/f.png"):
        picture(tmp_path / name)
    hidden = tmp_path / ".cache" / "in"
    hidden.parent.mkdir()
    (tmp_path / "in").rename(hidden)  # a hidden folder that is named is searched
    assert run(network[0], hidden, "--out", tmp_path / "out", "--kinds", "label") == 0
    assert [file.name for file in (tmp_path / "out").rglob("*.png")] == ["a.png"]


@pytest.mark.parametrize("below", ["", "predictions"])
def test_predictions_are_not_predicted_again(
    below: str,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    picture(tmp_path / "in" / "a.png")
    out = tmp_path / "in" / below
    assert run(network[0], tmp_path / "in", "--out", out, "--kinds", "label,probability:road") == 0
    capsys.readouterr()
    sentence = refused(
        capsys, tmp_path, network[0], tmp_path / "in", "--out", out, "--kinds", "entropy"
    )
    assert f"{out / 'label' / 'a.png'} lies where --out {out} holds predictions" in sentence


def test_two_images_of_one_name_are_refused(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("one/a.png", "two/a.jpg", "two/b.png", "two/b.webp"):
        picture(tmp_path / name)
    for words in (
        [tmp_path / "one", tmp_path / "two" / "a.jpg"],
        [tmp_path / "two"],
        [tmp_path / "one" / "a.png"] * 2,
    ):
        sentence = refused(capsys, tmp_path, network[0], *words, "--out", tmp_path / "out")
        assert (
            "would both become" in sentence
            and "rename one, or predict them into different folders" in sentence
        )


@pytest.mark.parametrize("kind", ["label", "color", "overlay", "entropy", "ids"])
def test_what_is_there_already_is_not_overwritten(
    kind: str,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    (tmp_path / "out" / kind).mkdir(parents=True)
    (tmp_path / "out" / kind / "b.png").write_text("mine")
    sentence = refused(
        capsys,
        tmp_path,
        network[0],
        tmp_path / "a.png",
        tmp_path / "b.png",
        "--out",
        tmp_path / "out",
        "--kinds",
        ",".join(outputs.KINDS),
    )
    assert (
        f"{tmp_path / 'out' / kind / 'b.png'} exists and is not overwritten; give another --out"
        in sentence
    )


def test_more_images_join_a_folder_but_not_those_of_other_classes(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    for name in ("a.png", "b.png"):
        assert run(network[0], tmp_path / name, "--out", tmp_path / "out") == 0
    capsys.readouterr()
    written(tmp_path / "camvid.ckpt", labels=CAMVID, data="camvid")
    sentence = refused(
        capsys, tmp_path, tmp_path / "camvid.ckpt", tmp_path / "c.png", "--out", tmp_path / "out"
    )
    assert f"{tmp_path / 'out' / 'legend.png'} exists and is no legend of these classes" in sentence
    (tmp_path / "out" / "legend.png").write_text("no image at all")
    assert "legend.png exists and is no legend of these classes" in refused(
        capsys, tmp_path, network[0], tmp_path / "c.png", "--out", tmp_path / "out"
    )


def test_wrong_words_are_refused(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture(tmp_path / "street.png")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    answers = {
        (
            "--strength",
            "1.5",
        ): "--strength 1.5: it is a share from 0 to 1",
        ("--strength", "nan"): "from 0 to 1",
        ("--inference", "slid:3x3"): "no inference mode; there are whole",
        (
            "--kinds",
            "label,colour",
        ): "there is no kind colour; did you mean color? there are label, ids, color",
        (
            "--kinds",
            "probability:rode",
        ): "there is no class probability:rode; did you mean probability:road? there are road",
        ("--batch", "0"): "--batch 0: it is a whole number from 1 up",
        ("--device", "cuda"): "--device cuda: this torch sees no CUDA device; give --device cpu",
        ("--runtime", "tensorrt"): "--runtime: tensorrt is none; give one of torch, onnxruntime",
        ("--legend",): "--legend is for videos and cameras; leave it out for images",
        ("--end", "3"): "--end is for videos and cameras",
        (tmp_path / "*.jpg",): f"no image or video matches {tmp_path / '*.jpg'}; they end in .png",
        (
            tmp_path / "fo*",
        ): f"{tmp_path / 'fo*'} matches only folders, such as {tmp_path / 'folder'}; give {tmp_path / 'fo*' / '*'} for",
        (tmp_path / "fi*",): "no image or video matches",
        ("--out", tmp_path / "file"): "is a file; --out takes a folder",
        (
            "--out",
            tmp_path / "file" / "below",
        ): "cannot be written to (Not a directory); give --out another folder",
    }
    for words, answer in answers.items():
        assert answer in refused(
            capsys, tmp_path, network[0], tmp_path / "street.png", "--out", tmp_path / "out", *words
        )


def test_onnxruntime_is_refused_where_it_is_not_installed(
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parser, "find_spec", lambda name: None if name == "onnxruntime" else name)
    words = ("--out", tmp_path / "out", "--runtime", "onnxruntime")
    sentence = refused(capsys, tmp_path, network[0], picture_file(tmp_path), *words)
    assert 'onnxruntime needs onnxruntime: pip install "segmodels[export]"' in sentence
    monkeypatch.setattr(parser, "find_spec", lambda name: name)
    words = (*words, "--device", "cuda")
    sentence = refused(capsys, tmp_path, network[0], picture_file(tmp_path), *words)
    assert "--runtime onnxruntime computes on the CPU; leave out --device cuda" in sentence


def test_the_device_is_the_one_asked_for(
    network: tuple[Path, SegmentationModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a GPU that could compute nothing, were it asked to
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    words = (network[0], picture_file(tmp_path), "--out", tmp_path / "out", "--kinds", "label")
    assert run(*words, "--device", "cpu") == 0


@onnx
@pytest.mark.slow
def test_onnxruntime_predicts_what_torch_does(tmp_path: Path) -> None:
    module = written(tmp_path / "streets.ckpt")
    image = picture(tmp_path / "street.png", noise(64, 96))
    words = (tmp_path / "street.png", "--out", tmp_path / "out", "--runtime", "onnxruntime")
    assert run(tmp_path / "streets.ckpt", *words) == 0
    label = read(tmp_path / "out" / "label" / "street.png")
    assert (label != predicted(module, image)).mean() < 1e-3


def picture_file(folder: Path) -> Path:
    picture(folder / "street.png")
    return folder / "street.png"


def test_numbers_that_no_data_set_tells_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(
        tmp_path / "two.ckpt",
        labels=LabelSet(("a", "b"), ((1, 2, 3), (200, 0, 0)), (7, 9), (255,)),
        data="folder",
    )
    picture(tmp_path / "street.png")
    sentence = refused(
        capsys,
        tmp_path,
        tmp_path / "two.ckpt",
        tmp_path / "street.png",
        "--out",
        tmp_path / "out",
        "--kinds",
        "ids",
    )
    assert (
        "--kinds ids: the 2 classes of this checkpoint have no other numbers "
        "(folder does not say any); take label" in sentence
    )


def test_a_run_without_a_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture(tmp_path / "street.png")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    sentence = refused(
        capsys, tmp_path, tmp_path / "run", tmp_path / "street.png", "--out", tmp_path / "out"
    )
    assert (
        f"{tmp_path / 'run'} holds no checkpoints/last.ckpt; give a .ckpt file or the folder of a run"
        in sentence
    )


def test_classes_without_a_name_for_every_letter_still_get_a_legend(tmp_path: Path) -> None:
    labels = LabelSet(("straße", "道路"), ((1, 2, 3), (200, 0, 0)), (0, 1), (255,))
    written(tmp_path / "two.ckpt", labels=labels, data="folder")
    picture(tmp_path / "street.png")
    assert run(tmp_path / "two.ckpt", tmp_path / "street.png", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "legend.png").is_file()
