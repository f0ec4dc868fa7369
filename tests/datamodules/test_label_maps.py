"""Tests of label maps, the third member of a labeled training batch.

They are made of each crop's label, and are the same wherever crops are made.
"""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules.sampling.samples import LabelMaps
from experiments.command_line.resolved_values import resolve
from experiments.training import build
from segmodels.module import SegmentationModule
from tests.support.data import QUIET, Noise, Witness, as_rank, noise

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec.*", "ignore:Checkpoint directory .* not empty"
)


def edges_and_weights(label: np.ndarray) -> dict[str, np.ndarray]:
    """Two maps of different kinds: where a class ends, as booleans, and a weight for each pixel."""
    ends = np.zeros(label.shape, bool)
    ends[:, 1:] = label[:, 1:] != label[:, :-1]
    return {"edges": ends, "weights": 1 + label.astype(np.float32) ** 2}


def with_maps(data: Noise, label_maps: LabelMaps = edges_and_weights) -> Noise:
    data.label_maps = label_maps
    return data


def training_batches(data: Noise) -> list:
    return list(as_rank(data, 0, 1).train_dataloader())


def check_maps(label: Tensor, maps: dict[str, Tensor]) -> None:
    assert list(maps) == ["edges", "weights"]
    assert maps["edges"].dtype == torch.bool and maps["weights"].dtype == torch.float32
    for number, each in enumerate(label.numpy()):
        for name, wanted in edges_and_weights(each).items():
            assert np.array_equal(maps[name][number].numpy(), wanted)


@pytest.mark.parametrize("resident", ["no", "memory"])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_crop_brings_the_maps_of_its_own_label(resident: str, workers: int) -> None:
    plain = training_batches(noise(workers=0))
    found = training_batches(with_maps(noise(workers=workers, resident=resident)))
    assert len(found) == len(plain) == 10
    for (image, label, maps), (theirs, numbers) in zip(found, plain, strict=True):
        assert torch.equal(label, numbers) and torch.equal(image, theirs)
        check_maps(label, maps)


def test_batches_without_maps_stay_pairs() -> None:
    for resident in ("no", "memory"):
        batches = training_batches(noise(resident=resident))
        assert all(len(batch) == 2 for batch in batches)


def test_what_is_judged_stays_a_pair() -> None:
    data = as_rank(with_maps(noise()), 0, 1)
    for loader in (data.val_dataloader(), data.eval_dataloader("val")):
        assert all(len(batch) == 2 for batch in loader)


@pytest.mark.parametrize("resident", ["no", "memory"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_labeled_half_alone_has_maps(resident: str, workers: int) -> None:
    settings = {"labeled": "3/7", "semi": True, "workers": workers, "resident": resident}
    data = with_maps(noise(**settings))
    for labeled, unlabeled in training_batches(data):
        check_maps(labeled[1], labeled[2])
        assert len(unlabeled) == 2
    assert len(data.unlabeled_crops(2)) == 2


def test_maps_move_to_the_device_with_their_batch() -> None:
    data = as_rank(with_maps(noise()), 0, 1)
    batch = next(iter(data.train_dataloader()))
    image, label, maps = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {each.device.type for each in (image, label, *maps.values())} == {"meta"}


class Maps(Witness):
    """Keeps a number for every map too."""

    def training_step(self, batch: tuple[Tensor, Tensor, dict[str, Tensor]]) -> Tensor:
        image, label, maps = batch
        check_maps(label, maps)
        return super().training_step((image, label)) + 0 * maps["weights"].mean()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_with_maps_is_given_exactly_the_batches_that_are_left(
    tmp_path: Path, workers: int
) -> None:
    straight, before, after = Maps(), Maps(), Maps()

    def fit(module: Maps, steps: int, resume: Path | None = None) -> None:
        saving = ModelCheckpoint(tmp_path, every_n_train_steps=4, filename="{step}", save_top_k=-1)
        trainer = lightning.Trainer(**QUIET, max_steps=steps, callbacks=[saving])
        data = with_maps(noise(workers=workers))
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)

    fit(before, 5)
    fit(after, 10, resume=tmp_path / "step=4.ckpt")
    fit(straight, 10)
    assert len(straight.seen) == 10
    assert before.seen == straight.seen[:5] and after.seen == straight.seen[4:]


@pytest.mark.parametrize("semi", ["none", "mean_teacher"])
def test_a_run_asks_for_the_maps_of_its_network(semi: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = staticmethod(edges_and_weights)
    monkeypatch.setattr(SegmentationModule, "label_maps", maps, raising=False)
    small = ["data.height=64", "data.width=128", "data.train=4", "data.val=2", "recipe.batch=2"]
    resolved = resolve("bisenet", "streets", small, semi=semi)
    data = build.open_data(resolved, seed=0)
    assert data.label_maps is None
    build.build(resolved, data, seed=0, new=True)
    assert data.label_maps is edges_and_weights
    monkeypatch.setattr(SegmentationModule, "label_maps", None)
    build.build(resolved, data, seed=0, new=True)
    assert data.label_maps is None
