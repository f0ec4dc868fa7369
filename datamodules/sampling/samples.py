"""Samples and batches: the order in which images are drawn, the crop of a draw, and its batch."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules.errors import DataError
from datamodules.labels import IGNORED
from datamodules.reading.decoding import Pair
from datamodules.reading.sources import Source
from datamodules.sampling import crops, deformation
from datamodules.sampling.class_uniform import Spots, counted
from datamodules.sampling.crops import PADDING, Crop, Window, draw
from datamodules.sampling.deformation import Motion

# Added to the seed of the unlabeled images' draws, which have nothing to do with the labeled ones'
UNLABELED = 1 << 32
# uint8 (3, h, w), uint8 (h, w), and where a network asks for them its maps (h, w) by name
Sample = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]
Draw = tuple[int, int]  # draw number, index of the image, or of a spot (see Spots)
LabelMaps = Callable[[np.ndarray], dict[str, np.ndarray]]  # label (h, w) -> maps (h, w) by name


# --- reading a window


def cut(source: Source, index: int, window: Window) -> Pair:
    """The window of the scaled image: what scaling the whole image and cropping would give."""
    size = source.size(index)
    box = crops.box_of(window, size)
    image, label = source.window(index, box)
    return crops.warp(image, window, size, box), crops.sampled(label, window, size, box)


def cut_moved(
    source: Source, index: int, crop: Crop, window: Window, motion: Motion
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and label of the whole crop, and which pixels lie outside of the image."""
    size = source.size(index)
    places = deformation.places(crop, window, motion)
    box = deformation.touched(places, window, size)
    image, label = source.window(index, box)
    image = deformation.warped(image, places, window, size, box)
    return image, deformation.numbers(label, places, window, size, box), places.outside


# --- samples


def tensors(image: np.ndarray, label: np.ndarray) -> tuple[Tensor, Tensor]:
    """Copied only where torch could not write: a raw pack shows its file's own bytes."""
    image, label = (np.require(each, requirements="CW") for each in (image, label))
    return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)


def maps_of(label: np.ndarray, label_maps: LabelMaps) -> dict[str, Tensor]:
    maps = label_maps(label)
    return {
        name: torch.from_numpy(np.require(each, requirements="CW")) for name, each in maps.items()
    }


class Crops(Dataset[Sample | DataError]):
    """[(draw number, index)] -> a random crop; an error of the data is returned, for the main
    process to raise.

    Without labels, the label says only where the crop shows no image: 255 there, 0 elsewhere. With
    spots, an index may be one of theirs. With `label_maps`, a sample has a third member: what they
    make of the crop's label.
    """

    def __init__(
        self,
        source: Source,
        crop: Crop,
        seed: int,
        labeled: bool = True,
        spots: Spots | None = None,
        label_maps: LabelMaps | None = None,
    ) -> None:
        self.source = source
        self.crop = crop
        self.seed = seed
        self.labeled = labeled
        self.spots = spots
        self.label_maps = label_maps

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: Draw) -> Sample | DataError:
        try:
            image, label = self.sample(*item)
        except DataError as error:
            return error
        pair = tensors(image, label)
        return (*pair, maps_of(label, self.label_maps)) if self.label_maps else pair

    def sample(self, number: int, index: int) -> Pair:
        crop, spot = self.crop, None
        if self.spots:
            index, spot = self.spots.of(index)
        size, rng = self.source.size(index), draw(self.seed, number)
        motion = deformation.drawn(crop, self.seed, number)
        if motion and spot:
            spot = deformation.turned(spot, size, motion)
        window = crops.choose(crop, size, rng, spot)
        image, label, outside = self.cut(index, window, motion)
        if crop.cat_max_ratio < 1 and crops.dominated(counted(label), crop.cat_max_ratio):
            whole = self.source.label(index)

            def count(other: Window) -> np.ndarray:
                return counted(self.label_in(whole, other, motion))

            window = crops.varied(crop, window, size, rng, spot, count)
            image, label, outside = self.cut(index, window, motion)
        if not self.labeled:
            label = np.zeros_like(label)
        image = self.recolored(image, number)
        if outside is not None:
            label[outside] = IGNORED
            if color := PADDING[crop.padding]:
                image[outside] = color
        return crops.pad(image, label, window, crop.size, crop.padding)

    def cut(
        self, index: int, window: Window, motion: Motion | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Image and label of the window; moved, of the whole crop and with what is outside."""
        if motion is None:
            return *cut(self.source, index, window), None
        return cut_moved(self.source, index, self.crop, window, motion)

    def label_in(self, whole: np.ndarray, window: Window, motion: Motion | None) -> np.ndarray:
        """The label that `cut` would return, out of the image's whole label."""
        size, box = whole.shape, (0, 0, *whole.shape)
        if motion is None:
            return crops.sampled(whole, window, size, box)
        places = deformation.places(self.crop, window, motion)
        return deformation.numbers(whole, places, window, size, box)

    def recolored(self, image: np.ndarray, number: int) -> np.ndarray:
        crop = self.crop
        if crop.jitter or crop.hue:
            image = crops.recolor(image, crop.jitter, self.seed, number, crop.hue)
        if crop.blur != "none":
            image = crops.blurred(image, crop, self.seed, number)
        return image


class Both(Dataset[Sample | DataError]):
    """[(stream, draw)] -> the crop of that stream; see BothSampler."""

    def __init__(self, *streams: Crops) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return sum(map(len, self.streams))

    def __getitem__(self, item: tuple[int, Draw]) -> Sample | DataError:
        stream, drawn = item
        return self.streams[stream][drawn]


class Whole(Dataset[Sample | DataError]):
    """[index] -> the whole image, for validation and test."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample | DataError:
        try:
            return tensors(*self.source.window(index))
        except DataError as error:
            return error


# --- batches


def collate(samples: Sequence[Sample | DataError]) -> Sample | DataError:
    """(B, 3, h, w) and (B, h, w), and maps (B, h, w); or the first error among the samples."""
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    if errors:
        return errors[0]
    # Pixels lie with their channels last, as decoders leave them: so a batch is copied three times
    # as fast. Torch would start threads.
    images = batch_of([sample[0].permute(1, 2, 0) for sample in samples])  # (B, h, w, 3)
    pair = images.permute(0, 3, 1, 2), batch_of([sample[1] for sample in samples])
    if len(samples[0]) == 2:
        return pair
    maps = [sample[2] for sample in samples]
    return *pair, {name: batch_of([each[name] for each in maps]) for name in maps[0]}


def batch_of(arrays: Sequence[Tensor]) -> Tensor:
    """Stacked, in memory that a GPU can fetch from by itself where there is one."""
    out = torch.empty(
        (len(arrays), *arrays[0].shape), dtype=arrays[0].dtype, pin_memory=torch.cuda.is_available()
    )
    np.stack([each.numpy() for each in arrays], out=out.numpy())
    return out


def collate_both(
    samples: Sequence[Sample | DataError], labeled: int
) -> tuple[Sample, Sample] | DataError:
    """The labeled batch, which comes first, and the unlabeled one."""
    batches = collate(samples[:labeled]), collate(samples[labeled:])
    return next((each for each in batches if isinstance(each, DataError)), batches)


class DrawSampler(Sampler[list[Draw]]):
    """The batches of one rank: draw k depends on (seed, k) alone, and each global batch is a run of
    draws that the ranks share out.

    The length counts all batches of the run, also those before `start`: Lightning goes on counting
    where a checkpoint stopped.
    """

    def __init__(
        self,
        images: int,
        seed: int,
        *,
        batch: int,
        batches: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        spots: Spots | None = None,
    ) -> None:
        self.images, self.seed, self.spots = images, seed, spots
        self.batch, self.batches, self.start = batch, batches, start
        self.rank, self.world = rank, world
        self.epoch, self.order = -1, np.arange(0)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.batch * self.world
        for first in range(self.start, self.batches * share, share):
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


class BothSampler(Sampler[list[tuple[int, Draw]]]):
    """A labeled and an unlabeled batch as one: every stream's draws, marked by its place."""

    def __init__(self, *streams: DrawSampler) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return len(self.streams[0])

    def __iter__(self) -> Iterator[list[tuple[int, Draw]]]:
        for batches in zip(*self.streams, strict=True):
            yield [(stream, drawn) for stream, batch in enumerate(batches) for drawn in batch]
