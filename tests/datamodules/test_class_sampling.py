"""Tests of class-aware sampling.

A crop that one class dominates is drawn again, and an epoch can show every class equally often.
"""

from collections import Counter
from pathlib import Path

import cv2
import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import DataError
from datamodules.labels import LabelSet
from datamodules.packs.format import Pack, record, write
from datamodules.reading.sources import Memory, Part, Source
from datamodules.sampling import class_uniform
from datamodules.sampling.class_uniform import Spots, centroids, located
from datamodules.sampling.crops import TRIES, Crop, choose, draw, laid, varied
from datamodules.sampling.samples import Crops, DrawSampler
from segmodels import experiment
from segmodels.recipe import Recipe, recipe_from
from tests.support import trees
from tests.support.data import QUIET, Noise, Witness, as_rank, fingerprint

BOTH = {
    "crop": (8, 8),
    "scales": (0.5, 1.5),
    "continuous": True,
    "cat_max_ratio": 0.5,
    "class_uniform": 0.5,
    "batch": 4,
    "iterations": 10,
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec.*", "ignore:Checkpoint directory .* not empty"
)


def blocky(
    number: int, size: tuple[int, int] = (120, 200), classes: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Large areas of one class, some of them ignored."""
    return trees.noise(size, (*range(classes), 255), seed=number, block=32)


def memory(count: int = 6) -> Memory:
    return Memory([blocky(number) for number in range(count)])


# --- a crop that one class dominates


def as_mmseg(label: np.ndarray, crop: Crop, number: int) -> np.ndarray:
    """The slow way: the scaled label whole, and its crops one after another until one passes; the random numbers alone are shared."""
    rng = draw(0, number)
    first = choose(crop, label.shape, rng)
    scaled = cv2.resize(label, first.scaled[::-1], interpolation=cv2.INTER_NEAREST)
    free = [max(have - want, 0) for have, want in zip(scaled.shape, crop.size)]
    top, left = first.top, first.left
    for _ in range(10):
        part = scaled[top : top + crop.size[0], left : left + crop.size[1]]
        numbers, counts = np.unique(part, return_counts=True)
        counts = counts[numbers != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < crop.cat_max_ratio:
            break
        top, left = (int(at * (most + 1)) for at, most in zip(rng.random(2), free))
    part = scaled[top : top + crop.size[0], left : left + crop.size[1]]
    return part[:, ::-1] if first.flip else part


@pytest.mark.parametrize("share", [0.4, 0.75, 0.99])
def test_crops_are_those_that_mmsegs_rule_keeps(share: float) -> None:
    crop, source = Crop((40, 50), (0.5, 2.0), continuous=True, cat_max_ratio=share), memory()
    for number in range(120):
        label = Crops(source, crop, seed=0).sample(number, number % 6)[1]
        wanted = as_mmseg(source.label(number % 6), crop, number)
        assert label.shape == wanted.shape and np.array_equal(label, wanted)


def test_a_crop_that_passes_is_the_one_drawn_without_the_rule() -> None:
    free = Crop((40, 50), (0.5, 2.0), continuous=True, jitter=0.2)
    strict = Crop((40, 50), (0.5, 2.0), continuous=True, jitter=0.2, cat_max_ratio=0.75)
    again = 0
    for number in range(120):
        (image, label), (other, chosen) = (
            Crops(memory(), crop, seed=0).sample(number, number % 6) for crop in (free, strict)
        )
        counts = np.bincount(label[label < 255], minlength=4)
        if counts.sum() and counts.max() / counts.sum() < 0.75:
            assert np.array_equal(image, other) and np.array_equal(label, chosen)
        else:
            again += not np.array_equal(label, chosen)
    assert again > 10


def test_tries_end_with_a_window_taken_unseen() -> None:
    looked = []
    crop = Crop((40, 50), cat_max_ratio=0.75)
    rng, size = draw(0, 3), (120, 200)
    first = choose(crop, size, rng)
    last = varied(
        crop,
        first,
        rng,
        None,
        lambda window: looked.append(window) or np.eye(1, 256, dtype=int)[0],
    )
    same = draw(0, 3)
    windows = [choose(crop, size, same)] + [
        laid(crop, size, size, same.random(2), first.flip, None) for _ in range(TRIES)
    ]
    assert looked == windows[:-1] and last == windows[-1] and len({*looked, last}) == TRIES + 1
    assert {(window.scaled, window.flip) for window in windows} == {(first.scaled, first.flip)}


def test_an_image_within_the_crop_is_taken_as_it_is() -> None:
    source = Memory([(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8))])
    for size in ((20, 30), (40, 50)):
        free, strict = (
            Crops(source, Crop(size, cat_max_ratio=share), seed=0).sample(0, 0)[1]
            for share in (1.0, 0.75)
        )
        assert np.array_equal(free, strict)


# --- where classes stand


@pytest.mark.parametrize("size", [(1024, 2048), (70, 90), (1100, 1500)])
def test_centroids_are_the_mean_places_of_each_class_in_each_tile(size: tuple[int, int]) -> None:
    label = trees.noise(size, (0, 3, 4, 9, 255), seed=1, block=64)[1]
    wanted = []
    for top in range(0, size[0], 1024):
        for left in range(0, size[1], 1024):
            tile = label[top : top + 1024, left : left + 1024]
            for number in range(9):
                if (tile == number).any():
                    row, column = np.argwhere(tile == number).mean(0)
                    wanted.append((number, top + int(row), left + int(column)))
    assert centroids(label, classes=9).tolist() == [list(each) for each in wanted]
    assert centroids(np.full(size, 255, np.uint8), classes=9).shape == (0, 3)


def test_threads_find_what_one_finds_also_in_packs_and_parts(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    pairs = [blocky(number, (300, 600)) for number in range(12)]
    names = [f"{number:02d}" for number in range(12)]
    labels = LabelSet(("a", "b", "c", "d"), tuple((n, n, n) for n in range(4)), (0, 1, 2, 3))
    parts = lambda first: (record(names[k], *pairs[k], "tiles") for k in range(first, 12))  # noqa: E731
    write(tmp_path / "a.pack", {"form": "tiles"}, names, parts)
    sources = (Memory(pairs), Pack(tmp_path / "a.pack", labels))
    found = [
        located(Part(source, range(1, 12, 2)), 4, 0.5, threads)
        for source in sources
        for threads in (1, 4)
    ]
    assert all(np.array_equal(each.places, found[0].places) for each in found)
    image, row, column = found[0].places[found[0].classes[2][0]].tolist()
    label = pairs[1 + 2 * image][1]
    assert [row, column] == np.argwhere(label == 2).mean(0).astype(int).tolist()


def test_labels_without_a_class_are_refused() -> None:
    source = Memory([(np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 255, np.uint8))])
    with pytest.raises(DataError, match=r"no training label shows one: take class_uniform=0"):
        located(source, 4, 0.5, 1)


# --- epochs that show every class equally often


def some_spots(images: int = 40, share: float = 0.5) -> Spots:
    """Class 0 in every image, class 1 in two, class 2 nowhere, class 3 in one."""
    places = [(0, image) for image in range(images)] + [(1, 5), (1, 9), (3, 9)]
    where = np.int32([(image, number, 7) for number, image in places])
    return Spots(
        images,
        share,
        where,
        [np.arange(images), np.arange(images, images + 2), np.array([images + 2])],
    )


@pytest.mark.parametrize(
    "share, each", [(0.5, [6, 7, 7]), (0.3, [4, 4, 4]), (1.0, [13, 13, 14]), (0.05, [0, 1, 1])]
)
def test_an_epoch_shows_each_class_equally_often_and_no_image_twice(
    share: float, each: list[int]
) -> None:
    found = some_spots(share=share)
    sampler = DrawSampler(40, 1, batch=8, batches=50, spots=found)
    epochs = np.reshape([index for batch in sampler for _, index in batch], (-1, 40))
    shown = Counter()
    for epoch in epochs:
        spots, images = epoch[epoch >= 40] - 40, epoch[epoch < 40]
        counts = [int(np.isin(spots, own).sum()) for own in found.classes]
        assert sorted(counts) == each and len(set(images.tolist())) == len(images) == 40 - sum(each)
        shown.update({number: count for number, count in enumerate(counts)})
        alone = Counter(spots[np.isin(spots, found.classes[1])].tolist())
        assert (
            max(alone.values(), default=0) - min(alone.values(), default=0) <= 1
        )  # all of a class, before one comes again
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert max(shown.values()) - min(shown.values()) <= len(epochs)


def test_a_spot_is_told_from_an_image_by_its_number() -> None:
    assert some_spots().of(39) == (39, None) and some_spots().of(40 + 41) == (9, (1, 7))


def test_a_crop_about_a_spot_is_uniform_and_stays_inside_the_image() -> None:
    crop, size = Crop((20, 30), flip=0.0), (100, 200)
    tops, lefts = zip(
        *(choose(crop, size, draw(2, number), spot=(50, 4))[1:3] for number in range(8000))
    )
    count = Counter(tops)
    assert sorted(count) == list(range(30, 51)) and min(count.values()) > 250  # 381 expected
    assert (
        set(lefts) == set(range(0, 5)) and Counter(lefts)[0] > 6500
    )  # 27 of 31 places begin outside and are moved to the edge
    other = {choose(crop, size, draw(2, number), spot=(98, 150))[1] for number in range(500)}
    assert other == {78, 79, 80}


def test_a_spot_moves_with_the_scale_and_changes_nothing_else() -> None:
    crop, size = Crop((20, 30), (0.5, 2.0), continuous=True), (100, 200)
    for number in range(300):
        window, plain = (
            choose(crop, size, draw(2, number), (50, 100)),
            choose(crop, size, draw(2, number)),
        )
        assert (window.scaled, window.flip, window.height, window.width) == (
            plain.scaled,
            plain.flip,
            plain.height,
            plain.width,
        )
        center = [
            int(place * after / before)
            for place, after, before in zip((50, 100), window.scaled, size)
        ]
        assert (
            window.top <= center[0] <= window.top + 20
            and window.left <= center[1] <= window.left + 30
        )
        assert window.top + 20 <= window.scaled[0] and window.left + 30 <= window.scaled[1]


class Rare(Noise):
    """Class 2 stands in one corner of one of forty images."""

    def source(self, split: str) -> Source:
        pairs = [
            (np.zeros((60, 80, 3), np.uint8), np.arange(60 * 80).reshape(60, 80) // 2400)
            for _ in range(40)
        ]
        pairs = [(image, label.astype(np.uint8)) for image, label in pairs]
        pairs[3][1][:12, :12] = 2
        return Memory(pairs)


def test_a_rare_class_is_seen_as_often_as_its_share_says() -> None:
    seen = {}
    for share in (0.0, 0.5):
        data = as_rank(Rare(crop=(16, 16), class_uniform=share, batch=8, iterations=150), 0, 1)
        labels = torch.cat([label for _, label in data.train_dataloader()])
        seen[share] = (labels == 2).flatten(1).any(1).float().mean().item()
    assert (
        seen[0.0] < 0.01 and 0.12 < seen[0.5] < 0.18
    )  # a sixth of the draws; a few crops end before the class


# --- both, through the data module


def same(one: tuple, other: tuple) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_workers_and_ranks_draw_the_same() -> None:
    alone = list(as_rank(Noise(**BOTH, workers=0), 0, 1).train_dataloader())
    helped = list(as_rank(Noise(**BOTH, workers=2), 0, 1).train_dataloader())
    assert len(alone) == 10 and all(map(same, alone, helped))
    ranks = [list(as_rank(Noise(**BOTH), rank, 2).train_dataloader()) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert sorted(map(fingerprint, whole[0])) == sorted(
            fingerprint(image) for part in parts for image in part[0]
        )


def test_a_run_goes_on_with_the_draws_that_are_left(tmp_path: Path) -> None:
    straight, after = Witness(), Witness()
    lightning.Trainer(**QUIET, max_steps=10, enable_checkpointing=False).fit(
        straight, datamodule=Noise(**BOTH)
    )
    first, second = (
        [ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")]
        for _ in range(2)
    )
    lightning.Trainer(**QUIET, max_steps=5, callbacks=first).fit(
        Witness(), datamodule=Noise(**BOTH)
    )
    lightning.Trainer(**QUIET, max_steps=10, callbacks=second).fit(
        after, datamodule=Noise(**BOTH), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True
    )
    assert after.seen == straight.seen[4:] and len({tuple(batch) for batch in straight.seen}) == 10


def test_unlabeled_images_are_drawn_as_ever() -> None:
    settings = BOTH | {"labeled": "3/7", "semi": True}
    plain = as_rank(Noise(**settings | {"cat_max_ratio": 1.0, "class_uniform": 0.0}), 0, 1)
    aware = as_rank(Noise(**settings), 0, 1)
    pairs = list(zip(plain.train_dataloader(), aware.train_dataloader(), strict=True))
    assert all(same(one[1], other[1]) for one, other in pairs) and not all(
        same(one[0], other[0]) for one, other in pairs
    )


def test_labels_are_looked_through_once_and_only_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    monkeypatch.setattr(
        class_uniform,
        "centroids",
        lambda label, classes: calls.append(1) or centroids(label, classes),
    )
    list(as_rank(Noise(**BOTH | {"class_uniform": 0.0}), 0, 1).train_dataloader())
    assert not calls
    data = as_rank(Noise(**BOTH), 0, 1)
    list(data.train_dataloader()), list(data.train_dataloader())
    assert len(calls) == 7


# --- recipes


@pytest.mark.parametrize(
    "field, value",
    [
        ("cat_max_ratio", 0.0),
        ("cat_max_ratio", 1.5),
        ("class_uniform", -0.1),
        ("class_uniform", 2.0),
    ],
)
def test_a_share_that_is_none_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"recipe.{field} is"):
        Recipe(**{field: value})
    with pytest.raises(DataError, match=f"{field}={value} is not a share"):
        Crop(**{field: value})


def test_a_recipe_stored_before_draws_as_it_did() -> None:
    assert (recipe_from({"lr": 0.1}).cat_max_ratio, recipe_from({"lr": 0.1}).class_uniform) == (
        1.0,
        0.0,
    )


def test_papers_that_drew_by_class_say_so() -> None:
    shares = {
        name: experiment(name).recipe.class_uniform
        for name in ("sfnet/resnet18", "sfnet/resnet18_code", "ddrnet", "bisenet")
    }
    assert shares == {
        "sfnet/resnet18": 0.0,
        "sfnet/resnet18_code": 0.5,
        "ddrnet": 0.5,
        "bisenet": 0.0,
    }
