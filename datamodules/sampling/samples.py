"""Samples and batches: the order in which images are drawn, the crop of a draw, and its batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.labels import IGNORED
from datamodules.reading.decoding import Pair
from datamodules.reading.sources import Source
from datamodules.sampling import crops, deformation
from datamodules.sampling.class_uniform import Spots, counted
from datamodules.sampling.crops import PADDING, Crop, Window, draw
from datamodules.sampling.deformation import Motion, MovedWindow

# Added to the seed of the unlabeled images' draws, which have nothing to do with the labeled ones'
UNLABELED = 1 << 32
# uint8 (3, h, w), uint8 (h, w), and where a network asks for them its maps (h, w) by name
Sample = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]
Draw = tuple[int, int]  # draw number, index of the image, or of a spot (see Spots)
LabelMaps = Callable[[np.ndarray], dict[str, np.ndarray]]  # label (h, w) -> maps (h, w) by name


class Samples(Protocol):
    def __getitem__(self, item: Any) -> Sample: ...


# --- samples


def cut(source: Source, index: int, window: Window | MovedWindow) -> Pair:
    """The window of the scaled image: what scaling the whole image and cropping would give."""
    box = window.box
    image, label = source.window(index, box)
    return window.cut_image(image, box[:2]), window.cut_label(label, box[:2])


def tensor_of(array: np.ndarray) -> Tensor:
    """Copied only where torch could not write: a raw pack shows its file's own bytes."""
    return torch.from_numpy(np.require(array, requirements="CW"))


def tensors(image: np.ndarray, label: np.ndarray) -> tuple[Tensor, Tensor]:
    return tensor_of(image).permute(2, 0, 1), tensor_of(label)  # (h, w, 3) -> (3, h, w)


@dataclass
class Crops:
    """[(draw number, index)] -> a random crop.

    Without labels, the label says only where the crop shows no image: 255 there, 0 elsewhere. With
    spots, an index may be one of theirs. With `label_maps`, a sample has a third member: what they
    make of the crop's label.
    """

    source: Source
    crop: Crop
    seed: int
    labeled: bool = True
    spots: Spots | None = None
    label_maps: LabelMaps | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: Draw) -> Sample:
        image, label = self.sample(*item)
        pair = tensors(image, label)
        if self.label_maps is None:
            return pair
        return *pair, {name: tensor_of(each) for name, each in self.label_maps(label).items()}

    def sample(self, number: int, index: int) -> Pair:
        crop = self.crop
        spot = None
        if self.spots:
            index, spot = self.spots.of(index)
        size = self.source.size(index)
        rng = draw(self.seed, number)
        motion = deformation.drawn(crop, self.seed, number)
        if motion and spot:
            spot = deformation.turned(spot, size, motion)
        window = crops.choose(crop, size, rng, spot)
        moved = self.moved(window, motion)
        image, label = cut(self.source, index, moved)
        if crop.cat_max_ratio < 1 and crops.dominated(counted(label), crop.cat_max_ratio):
            whole = self.source.label(index)

            def count(other: Window) -> np.ndarray:
                return counted(self.moved(other, motion).cut_label(whole))

            window = crops.varied(crop, window, rng, spot, count)
            moved = self.moved(window, motion)
            image, label = cut(self.source, index, moved)
        if not self.labeled:
            label = np.zeros_like(label)
        if crop.jitter or crop.hue:
            image = crops.recolor(image, crop.jitter, self.seed, number, crop.hue)
        if crop.blur != "none":
            image = crops.blurred(image, crop, self.seed, number)
        if isinstance(moved, MovedWindow):
            label[moved.outside] = IGNORED
            if color := PADDING[crop.padding]:
                image[moved.outside] = color
        return crops.pad(image, label, window, crop.size, crop.padding)

    def moved(self, window: Window, motion: Motion | None) -> Window | MovedWindow:
        return deformation.move(self.crop, window, motion) if motion else window


@dataclass
class Whole:
    """[index] -> the whole image, for validation and test."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return tensors(*self.source.window(index))


# --- batches


def make_batch(samples: Samples, items: Sequence[Any]) -> Sample:
    """(B, 3, h, w) and (B, h, w), and maps (B, h, w)."""
    images, labels, *maps = zip(*(samples[item] for item in items))
    # Pixels lie with their channels last, as decoders leave them: so a batch is copied three times
    # as fast. Torch would start threads.
    stacked = stack([image.permute(1, 2, 0) for image in images])  # (B, h, w, 3)
    pair = stacked.permute(0, 3, 1, 2), stack(labels)
    if not maps:
        return pair
    return *pair, {name: stack([each[name] for each in maps[0]]) for name in maps[0][0]}


def stack(arrays: Sequence[Tensor]) -> Tensor:
    """In memory that a GPU can fetch from by itself where there is one."""
    shape = (len(arrays), *arrays[0].shape)
    out = torch.empty(shape, dtype=arrays[0].dtype, pin_memory=torch.cuda.is_available())
    np.stack([each.numpy() for each in arrays], out=out.numpy())
    return out


@dataclass(kw_only=True)
class DrawSampler:
    """The batches of one rank: draw k depends on (seed, k) alone, and each global batch is a run of
    draws that the ranks share out.

    An epoch is a run of `batches`; it begins after the batches that training has `taken`, and ends
    where their number is a multiple of its length. The length counts those before a checkpoint too:
    Lightning goes on counting there.
    """

    images: int = field(kw_only=False)
    seed: int = field(kw_only=False)
    batch: int
    batches: int
    rank: int = 0
    world: int = 1
    taken: Callable[[], int] = int  # 0
    spots: Spots | None = None

    def __post_init__(self) -> None:
        self.epoch = -1
        self.order = np.arange(0)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.batch * self.world
        taken = self.taken()
        end = (taken // self.batches + 1) * self.batches
        for first in range(taken * share, end * share, share):
            yield [
                (number, self.index(number))
                for number in range(first + self.rank, first + share, self.world)
            ]

    def index(self, number: int) -> int:
        """Every image once per epoch, in an order of its own, or what the spots make of it: epochs
        may end inside a batch.
        """
        epoch, place = divmod(number, self.images)
        if epoch != self.epoch:
            rng = draw(self.seed, epoch, crops.ORDER)
            self.epoch = epoch
            self.order = self.spots.epoch(rng) if self.spots else rng.permutation(self.images)
        return int(self.order[place])
