"""Data modules of a few noisy images, and functions that look at their batches."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import Tensor, nn

from datamodules import DataError
from datamodules.labels import LabelSet
from datamodules.module import SegmentationData
from datamodules.reading.sources import Memory, Source
from tests.support import trees

PAINTED = [
    {"name": "road", "color": [128, 64, 128]},
    {"name": "sky", "color": [70, 130, 180]},
    {"name": "tree", "color": [0, 99, 0]},
]


def complaint(of: object, *words: str) -> str:
    """The one sentence that calling `of` raises, which must hold all the words."""
    with pytest.raises(DataError) as caught:
        of()
    sentence = str(caught.value)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence
    return sentence


QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "max_epochs": 1,
}


class Noise(SegmentationData):
    name = "noise"
    labels = LabelSet(("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), (0, 1, 2))
    counts = {"train": 7, "val": 5, "test": 3}

    def source(self, split: str) -> Source:
        return Memory([trees.noise((12, 16), (0, 1, 2), seed=k) for k in range(self.counts[split])])


class Witness(lightning.LightningModule):
    """Keeps a number for every image that training and validation were given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.judged: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.append([fingerprint(image) for image in batch[0]])
        return self.weight * batch[0].float().mean()

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.judged += [fingerprint(image) for image in batch[0]]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fingerprint(image: Tensor) -> int:
    return hash(image.numpy().tobytes())


def as_rank(data: SegmentationData, rank: int, world: int) -> SegmentationData:
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world, num_devices=world, training=True, max_steps=-1
    )
    data.setup("fit")
    return data


def noise(**settings: object) -> Noise:
    return Noise(
        **{"crop": (8, 8), "scales": (0.5, 1.5), "continuous": True, "batch": 4, "iterations": 10}
        | settings
    )
