"""Tests of training images in memory: the same batches, and runs that resume like any other."""

import lightning
import pytest
import torch

from datamodules import DataError
from tests.support.data import QUIET, Noise, Witness, as_rank


class Files(Noise):
    """Not in memory yet, for all that the base knows."""

    def source(self, split: str):
        held = super().source(split)
        methods = {name: getattr(held, name) for name in ("names", "size", "label", "window")}
        return type("Reading", (), methods | {"__len__": lambda _: len(held)})()


@pytest.mark.parametrize("semi", [False, True])
def test_batches_and_resuming_are_those_of_the_files(semi: bool) -> None:
    settings = {
        "crop": (8, 8),
        "scales": (0.5, 1.5),
        "continuous": True,
        "batch": 4,
        "iterations": 6,
        "labeled": "3/7",
        "semi": semi,
    }
    plain, kept = (
        as_rank(Files(**settings, workers=0, resident=each), 0, 1) for each in ("no", "memory")
    )
    kept.load_state_dict({"consumed": 8})
    wanted, batches = list(plain.train_dataloader())[2:], list(kept.train_dataloader())
    assert len(batches) == len(wanted) == 4
    for one, other in zip(batches, wanted, strict=True):
        for pair, theirs in zip(one if semi else [one], other if semi else [other], strict=True):
            assert all(map(torch.equal, pair, theirs))


def test_a_run_with_resident_data_learns_and_judges() -> None:
    data, module = Files(crop=(8, 8), batch=4, iterations=3, resident="memory"), Witness()
    lightning.Trainer(**QUIET, max_steps=3, enable_checkpointing=False).fit(module, datamodule=data)
    assert [len(batch) for batch in module.seen] == [4, 4, 4]
    assert len(module.judged) >= 5 and data.consumed == 12


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.resident=gpu is none of no, memory"):
        Noise(resident="gpu")
