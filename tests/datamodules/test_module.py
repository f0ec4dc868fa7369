import gc
import multiprocessing
import os
import pickle
import threading
import time
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

import datamodules
from datamodules import DataError
from datamodules.labels import CAMVID, CITYSCAPES, LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.sources import Files, Source
from datamodules.sampling.loader import Loader
from datamodules.thread_pools import cores
from experiments.drawing.label_images import colored
from tests.support import trees
from tests.support.data import QUIET, Noise, Witness, as_rank, fingerprint, noise
from tests.support.patience import until

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec.*", "ignore:Checkpoint directory .* not empty"
)


# --- resume


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_is_given_exactly_the_batches_that_are_left(
    tmp_path: Path, workers: int, accumulate: int
) -> None:
    settings = {"workers": workers, "accumulate": accumulate}
    trainer = QUIET | {"accumulate_grad_batches": accumulate, "val_check_interval": 3 * accumulate}
    straight, before, after = Witness(), Witness(), Witness()
    lightning.Trainer(**trainer, max_steps=10, enable_checkpointing=False).fit(
        straight, datamodule=noise(**settings)
    )
    first, second = (
        [ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")]
        for _ in range(2)
    )
    lightning.Trainer(**trainer, max_steps=5, callbacks=first).fit(
        before, datamodule=noise(**settings)
    )
    resumed = noise(**settings)
    lightning.Trainer(**trainer, max_steps=10, callbacks=second).fit(
        after, datamodule=resumed, ckpt_path=tmp_path / "step=4.ckpt", weights_only=True
    )
    assert len(straight.seen) == 10 * accumulate
    assert len({tuple(batch) for batch in straight.seen}) == 10 * accumulate
    assert before.seen == straight.seen[: 5 * accumulate]
    assert after.seen == straight.seen[4 * accumulate :]
    assert resumed.consumed == 40
    assert not multiprocessing.active_children(), "workers outlive their run"


def test_only_training_counts_as_consumed() -> None:
    data = noise()
    lightning.Trainer(**QUIET, max_steps=10, limit_train_batches=3, enable_checkpointing=False).fit(
        Witness(), datamodule=data
    )
    assert data.state_dict() == {"consumed": 12}
    lightning.Trainer(**QUIET).validate(Witness(), datamodule=data, verbose=False)
    assert data.state_dict() == {"consumed": 12}


def test_what_is_consumed_counts_all_ranks() -> None:
    data = as_rank(noise(), rank=1, world=2)
    batch = next(iter(data.train_dataloader()))
    assert data.on_before_batch_transfer(batch, 0) is batch and data.consumed == 4


# --- ranks


def test_ranks_together_are_given_the_images_of_one_process() -> None:
    alone = as_rank(noise(iterations=6), 0, 1)
    ranks = [as_rank(noise(iterations=6), rank, 2) for rank in range(2)]
    loaders = [data.train_dataloader() for data in (alone, *ranks)]
    assert [len(loader) for loader in loaders] == [6, 6, 6]
    for one, first, second in zip(*loaders, strict=True):
        halves = [
            fingerprint(image)
            for image, _ in zip(torch.cat([first[0], second[0]]), range(4), strict=True)
        ]
        assert first[0].shape[0] == 2
        assert sorted(halves) == sorted(fingerprint(image) for image in one[0])


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_an_odd_validation_set_is_judged_once_and_unpadded_on_any_number_of_ranks(
    world: int,
) -> None:
    shares = [list(as_rank(noise(batch=12), rank, world).val_dataloader()) for rank in range(world)]
    given = [fingerprint(image) for share in shares for batch, _ in share for image in batch]
    data = noise()
    whole = [
        fingerprint(torch.from_numpy(data.source("val").window(index)[0]).permute(2, 0, 1))
        for index in range(5)
    ]
    assert sorted(given) == sorted(whole)
    assert all(batch.shape[0] == 1 for share in shares for batch, _ in share)


def test_a_batch_that_ranks_and_accumulation_cannot_share_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"batch=10 .* 2 ranks x 2 accumulation steps: take 8 or 12"
    ):
        as_rank(noise(batch=10, accumulate=2), 0, 2).train_dataloader()


# --- workers


class Broken(Noise):
    def source(self, split: str) -> Source:
        return Gap(super().source(split))


class Gap:
    """Image 5 cannot be read, and the first look does not notice."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.names = source.names
        self.size = source.size
        self.label = source.label

    def __len__(self) -> int:
        return len(self.source)

    def window(
        self, index: int, box: tuple[int, int, int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if index == 5:
            raise DataError("image 5 is damaged: copy it again")
        return self.source.window(index, box)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_arrives_as_its_one_sentence(workers: int) -> None:
    data = Broken(crop=(8, 8), batch=7, iterations=2, workers=workers)
    data.setup("fit")
    with pytest.raises(DataError) as caught:
        list(data.train_dataloader())
    assert str(caught.value) == "image 5 is damaged: copy it again"
    assert not multiprocessing.active_children()


def making() -> int:
    """Threads that make samples."""
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_threads_end_when_a_loader_is_left_in_its_midst() -> None:
    data = noise(workers=3, iterations=40)
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    assert making()
    del batches
    gc.collect()
    assert until(lambda: not making())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_knows_how_long_it_was_waited_for(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample takes 2 s and a step with a batch 100 s, by a clock that nothing else moves."""
    clock, made, turn = [0.0], [], threading.Lock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(list):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            with turn:
                clock[0] += 2
                made.append(index)
            return torch.zeros(3, 1, 1), torch.zeros(1, 1)

    loader = Loader(Slow(), [[0], [1], [2]], workers)
    for number, _ in enumerate(loader, 1):
        assert until(lambda: len(made) == (3 if workers else number))  # noqa: B023
        clock[0] += 100
    assert loader.waited == 6 if not workers else 2 <= loader.waited <= 6


def test_memory_is_read_without_a_copy() -> None:
    data = noise()
    data.setup("fit")
    list(data.train_dataloader())
    pair = data.sources["train"].window(0)
    assert all(map(np.shares_memory, pair, data.sources["train"].pairs[0]))


def test_workers_follow_the_cores_a_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files([(tmp_path / "a.png", tmp_path / "b.png")], CITYSCAPES)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert cores() == 3
    assert noise().worker_count(files) == 3
    assert noise(workers=1).worker_count(files) == 1
    assert noise().worker_count(noise().source("val")) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert noise().worker_count(files) == 8


def test_the_extent_counts_labeled_images_and_fits_into_each(tmp_path: Path) -> None:
    sizes = {"photo0": (45, 70), "photo1": (40, 60), "photo2": (50, 40)}
    for count, size in zip((3, 2, 1), reversed(sizes.values())):
        trees.folder(tmp_path, {"train": count}, ["road"], ids=(0,), size=size)
    assert datamodules.Folder(tmp_path).extent() == (3, (40, 40))
    one = datamodules.Folder(tmp_path, labeled="1")
    (name,) = one.part(labeled=True).names
    assert one.extent() == (1, sizes[name])


def test_the_extent_of_streets_is_known_before_they_are_drawn() -> None:
    for labeled in (None, "1/3"):
        data = datamodules.Streets(height=64, width=128, train=7, labeled=labeled)
        known = data.extent()
        assert not data.sources
        assert known == SegmentationData.extent(data)


def test_a_loader_survives_being_listed_twice() -> None:
    data = noise()
    data.setup("fit")
    loader = data.val_dataloader()
    assert isinstance(loader, Loader) and len(loader) == len(list(loader)) == len(list(loader)) == 5


# --- finding data sets, label sets


def test_a_data_set_is_found_by_its_file() -> None:
    assert (
        datamodules.names().items()
        >= {
            "cityscapes": "Cityscapes",
            "camvid": "CamVid",
            "streets": "Streets",
            "folder": "Folder",
        }.items()
    )
    assert all(
        issubclass(getattr(datamodules, name), SegmentationData)
        for name in datamodules.names().values()
    )
    with pytest.raises(AttributeError, match=r"its data sets are ACDC, .* Cityscapes"):
        getattr(datamodules, "Cityscape")  # noqa: B009


def test_every_official_id_of_cityscapes_is_a_class_or_ignored() -> None:
    oracle = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    table = {label.id: label.trainId for label in oracle}
    assert CITYSCAPES.known == {id % 256 for id in table}
    assert all(
        CITYSCAPES.table[id % 256] == (train_id if 0 <= train_id < 19 else 255)
        for id, train_id in table.items()
    )
    judged = sorted(
        (label for label in oracle if 0 <= label.trainId < 19), key=lambda label: label.trainId
    )
    assert CITYSCAPES.names == tuple(label.name for label in judged)
    assert CITYSCAPES.palette == tuple(label.color for label in judged)
    assert CITYSCAPES.categories == tuple(label.category for label in judged)


@pytest.mark.parametrize("labels", [CITYSCAPES, CAMVID])
def test_decoding_undoes_encoding(labels: LabelSet) -> None:
    ids = np.array(labels.ids, np.uint8).reshape(1, -1)
    assert np.array_equal(labels.encode(ids), np.arange(len(ids[0]))[None])
    assert np.array_equal(labels.decode(labels.encode(ids)), ids)
    assert labels.decode(np.uint8([[255]])) == labels.void[0]


def test_colors_and_train_ids_turn_into_each_other() -> None:
    label = np.append(np.arange(19), 255).astype(np.uint8)[None]
    picture = colored(label, CITYSCAPES.palette)
    assert tuple(picture[0, 13]) == (0, 0, 142) and tuple(picture[0, 19]) == (0, 0, 0)
    assert np.array_equal(CITYSCAPES.encode_colors(picture), label)


def test_a_value_that_is_neither_class_nor_void_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        DataError,
        match=r"x.png holds the label values 12, 200; allowed are 0-11 \(nearest to 12: 11\)",
    ):
        CAMVID.encode(np.uint8([[0, 12, 200]]), "x.png")


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"ids": (0, 0)}, "share the id 0"),
        ({"names": ("a", "a")}, "share the name a"),
        ({"ids": (0, 255)}, "void at once"),
        ({"ids": (0, 1, 2)}, "as many names"),
    ],
)
def test_a_label_set_that_contradicts_itself_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        LabelSet(**{"names": ("a", "b"), "palette": ((0, 0, 0), (1, 1, 1)), "ids": (0, 1)} | wrong)


def test_sources_and_errors_travel_to_workers() -> None:
    source = pickle.loads(pickle.dumps(noise().source("val")))
    assert np.array_equal(source.window(1)[0], noise().source("val").window(1)[0])
    assert str(pickle.loads(pickle.dumps(DataError("one sentence")))) == "one sentence"
