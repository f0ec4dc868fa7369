"""The base of every data set: batches of `(image, label)`, uint8 (B, 3, H, W) and uint8 (B, H, W) train ids, 255 ignored.

A semi-supervised run gets pairs of them, `(labelled, unlabelled)`; the second's label is 255 where a crop shows no image, 0 elsewhere.
Where `label_maps` is set, a labelled training batch has a third member: a dict of maps (B, H, W) made of the crops' labels.
"""

import inspect
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from datamodules import DataError
from datamodules.labels import RGB, LabelSet
from datamodules.layouts import one_of, whole_number
from datamodules.packs.find import packed, packs_beside
from datamodules.packs.format import Pack
from datamodules.packs.stream import Stream
from datamodules.reading.sources import Memory, Part, Source, Unpaired, remembered
from datamodules.sampling.class_frequencies import Frequencies, frequencies
from datamodules.sampling.class_uniform import Spots, located
from datamodules.sampling.crops import Crop
from datamodules.sampling.labeled_part import chosen, fingerprint
from datamodules.sampling.loader import Loader, cores
from datamodules.sampling.on_device import Draws, Resident, check_resident
from datamodules.sampling.samples import (
    UNLABELLED,
    Both,
    BothSampler,
    Crops,
    DrawSampler,
    LabelMaps,
    Sample,
    Whole,
    batches_of,
    collate,
    collate_both,
    maps_of,
)

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class SegmentationData(LightningDataModule):
    """A data set says what it is in the class attributes and reads a split in `source`; the rest is here.

    One run is one epoch of `iterations * accumulate` batches: Trainer(max_epochs=1, max_steps=iterations, use_distributed_sampler=False).
    `batch` and `unlabelled` are global: ranks and accumulation share them. A checkpoint resumes bit for bit when it was written at an
    optimizer step; one from inside an accumulation goes on with the next draw, without the gradients that were lost.
    """

    labels: LabelSet
    name: ClassVar[str] = ""  # as people write it
    layout: ClassVar[str] = ""  # the tree below root, for messages
    origin: ClassVar[str] = ""  # where to get it
    environment: ClassVar[str | None] = None  # variable that names root
    budget: ClassVar[dict[str, Any]] = {}  # recipe fields that replace the paper's
    caution: ClassVar[str] = ""  # what a result on it does not say
    hidden: ClassVar[
        dict[str, str]
    ] = {}  # splits whose labels are not public, and what to do instead
    relabels: ClassVar[tuple[str, ...]] = ()  # options that choose other labels of the same images

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        crop: Sequence[int] = (1024, 1024),
        scales: Sequence[float] = (1.0,),
        continuous: bool = False,
        flip: float = 0.5,
        jitter: float = 0.0,
        hue: float = 0.0,
        cat_max_ratio: float = 1.0,
        class_uniform: float = 0.0,
        rotation: float = 0.0,
        rotation_chance: float = 1.0,
        shift: float = 0.0,
        elastic: float = 0.0,
        blur: str = "none",
        blur_chance: float = 1.0,
        padding: Literal["mean", "black", "mirror"] = "mean",
        batch: int = 8,
        iterations: int = 1000,
        accumulate: int = 1,
        seed: int = 0,
        workers: int | None = None,
        labelled: str | None = None,
        unlabelled: int = 0,
        semi: bool = False,
        resident: Literal["no", "memory", "device"] = "no",
        cache: str | None = None,
        cache_gb: float = 50.0,
    ) -> None:
        """`labelled`: the part of the training images that keeps its labels; `unlabelled`: how many of the others a step takes where
        `semi` says that a method wants them, 0 for as many as labelled ones. `resident`: training images are read once and stay in memory,
        or on the device, where crops are then made. `cache`: a folder that keeps up to `cache_gb` of what is read out of streams."""
        super().__init__()
        for field, value, least in (
            ("batch", batch, 1),
            ("iterations", iterations, 1),
            ("accumulate", accumulate, 1),
            ("seed", seed, 0),
            ("workers", workers or 0, 0),
            ("unlabelled", unlabelled, 0),
        ):
            whole_number(field, value, least)
        self.given_root = root
        self.crop = Crop(
            size=crop,
            scales=scales,
            continuous=continuous,
            flip=flip,
            jitter=jitter,
            hue=hue,
            cat_max_ratio=cat_max_ratio,
            class_uniform=class_uniform,
            rotation=rotation,
            rotation_chance=rotation_chance,
            shift=shift,
            elastic=elastic,
            blur=blur,
            blur_chance=blur_chance,
            padding=padding,
        )
        self.batch, self.iterations, self.accumulate, self.seed, self.workers = (
            batch,
            iterations,
            accumulate,
            seed,
            workers,
        )
        self.labelled, self.unlabelled, self.semi = labelled, unlabelled or batch, semi
        self.resident = one_of("resident", resident, ("no", "memory", "device"))
        if self.resident == "device":
            check_resident(self.crop)
        self.cache, self.cache_gb = cache, cache_gb
        self.consumed = 0  # labelled draws of all ranks that training was given
        self.sources: dict[str, Source] = {}
        self.feed: Loader | None = None  # of training
        self.held: dict[bool, Resident] = {}  # on the device: labelled images, and the others
        self.found: Spots | None = None  # in the labelled images
        self.counts_found: Frequencies | None = None  # in the labelled images
        self.label_maps: LabelMaps | None = None  # what a network wants made of each label

    # --- what a data set brings

    def source(self, split: str) -> Source:
        """Reads the split's listing; pixels are read when they are asked for."""
        raise NotImplementedError

    def official(self, split: str) -> int | None:
        """How many images the data set's authors count; None where options choose others, or nobody counts."""
        counts, defaults = (
            getattr(self, "counts", {}),
            inspect.signature(type(self).__init__).parameters,
        )
        if split == "train" and getattr(self, "training", None) in counts:
            return counts[self.training]
        alike = (
            *self.relabels,
            *(("training",) if split != "train" else ()),
        )  # leave the split's images as they are
        plain = all(
            value == defaults[name].default
            for name, value in self.own_options().items()
            if name not in alike
        )
        return counts.get(split) if plain else None

    def instances(self, split: str, index: int) -> np.ndarray | None:
        """An image's instances, int32 (H, W): train id * 1000 + number within an instance and -1 elsewhere; None where no file tells."""
        return None

    @property
    def given(self) -> str | Path | None:
        return self.given_root or (os.environ.get(self.environment) if self.environment else None)

    @property
    def root(self) -> Path:
        given = self.given
        if not given:
            raise DataError(f"{self.name} needs a folder: {self.remedy}")
        root = Path(given).expanduser()
        if not root.is_dir():
            raise DataError(f"{self.name}: there is no folder {root}{near(root)}: {self.remedy}")
        return root

    @property
    def remedy(self) -> str:
        variable = f" or the environment variable {self.environment}" if self.environment else ""
        return f"give data.root=DIR{variable}, where DIR holds {self.layout}{'; ' if self.origin else ''}{self.origin}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def palette(self) -> tuple[RGB, ...]:
        return self.labels.palette

    # --- reading

    def setup(self, stage: str | None = None) -> None:
        """Makes the stage's sources, once, and looks at a few of their samples before any training starts."""
        for split in STAGES.get(stage or "fit", ()):
            self.open(split)

    def open(self, split: str) -> Source:
        if split in self.hidden:
            raise DataError(f"{self.name}'s {split} labels are not public: {self.hidden[split]}")
        if split not in self.sources:
            source = self.stored(split)
            if self.cache and not isinstance(source, Stream):
                raise DataError(
                    f"data.cache={self.cache} keeps what is read out of streams, and {self.name} {split} is none: drop data.cache"
                )
            check(source)
            in_memory = (
                split == "train" and self.resident == "memory" and not isinstance(source, Memory)
            )
            self.sources[split] = remembered(source) if in_memory else source
        return self.sources[split]

    def stored(self, split: str) -> Source:
        """The split's stream or pack, or else its files."""
        data = type(self).__name__.lower()
        try:
            return self.packed(data, split) or self.source(split)
        except OSError as problem:
            raise DataError(
                f"{problem.filename} cannot be read ({problem.strerror}): make it readable, or give another folder"
            ) from None
        except Unpaired:
            raise
        except DataError:
            if self.given and (others := packs_beside(self.given, data, split)):
                raise DataError(
                    f"{self.root} holds {', '.join(others)} and no pack of {split}: pack {split} there too, as the others were packed"
                ) from None
            raise

    def packed(self, data: str, split: str) -> Pack | Stream | None:
        """See experiments/pack.py."""
        found = (
            packed(
                self.given,
                data,
                split,
                self.own_options(),
                cache=self.cache,
                gigabytes=self.cache_gb,
            )
            if self.given
            else None
        )
        if found is not None:
            found.labels = self.labels
        return found

    def own_options(self) -> dict[str, Any]:
        """What this data set was asked for beyond what all can be, such as other labels; None where no attribute of that name holds it."""
        base, own = (
            inspect.signature(kind.__init__).parameters for kind in (SegmentationData, type(self))
        )
        return {
            name: getattr(self, name, None)
            for name, each in own.items()
            if name not in base and each.kind != each.VAR_KEYWORD
        }

    # --- training

    def train_dataloader(self) -> Loader:
        source = self.open("train")
        first = self.consumed // (self.micro_batch * self.world)  # batch to go on with
        streams = [self.stream(labelled) for labelled in ((True, False) if self.semi else (True,))]
        sizes = (self.micro_batch, self.micro_unlabelled)
        samplers = [self.sampler(crops, size, first) for crops, size in zip(streams, sizes)]
        if self.resident == "device":
            streams = [Draws(len(crops)) for crops in streams]
        workers, together = (
            self.worker_count(source),
            partial(collate_both, labelled=self.micro_batch),
        )
        if self.semi:
            self.feed = Loader(Both(*streams), BothSampler(*samplers), workers, together)
        else:
            self.feed = Loader(streams[0], samplers[0], workers)
        return self.feed

    def stream(self, labelled: bool) -> Crops:
        """Crops of the labelled images, or of the others, which have random numbers of their own."""
        if labelled:
            maps = self.label_maps
            return Crops(self.part(True), self.crop, self.seed, spots=self.spots(), label_maps=maps)
        crop = replace(
            self.crop, jitter=0.0, hue=0.0, blur="none", cat_max_ratio=1.0, class_uniform=0.0
        )  # their classes are not known, and their color is the method's
        return Crops(self.part(False), crop, self.seed + UNLABELLED, labelled=False)

    def spots(self) -> Spots | None:
        """Where the classes stand, for draws that ask for them; all labels are read for it, once."""
        if self.crop.class_uniform and not self.found:
            threads = max(cores() // self.neighbors, 1)
            self.found = located(
                self.part(True), len(self.class_names), self.crop.class_uniform, threads
            )
        return self.found

    def class_weights(self, rule: str) -> tuple[float, ...]:
        """Counted in the labelled images, whose labels are all read, once: the rule is "median_frequency"."""
        one_of("class_weights", rule, ("median_frequency",))
        if not self.counts_found:
            threads = max(cores() // self.neighbors, 1)
            self.counts_found = frequencies(self.part(True), threads)
        weights = self.counts_found.median_frequency(len(self.class_names))
        if not any(weights):
            raise DataError(
                f"class_weights={rule} counts classes, and no training label shows one: give a number per class"
            )
        return tuple(weights)

    def sampler(self, crops: Crops, batch: int, first: int) -> DrawSampler:
        batches, start = self.iterations * self.accumulate, first * batch * self.world
        place = {"rank": self.rank, "world": self.world, "start": start}
        return DrawSampler(
            len(crops), crops.seed, batch=batch, batches=batches, spots=crops.spots, **place
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Resident on the device, a training batch is only draws so far."""
        if self.resident != "device" or not (self.trainer and self.trainer.training):
            return batch
        if not self.semi:
            return self.made(batch, True)
        return self.made(batch[0], True), self.made(batch[1], False)

    def made(self, draws: Tensor, labelled: bool) -> Sample:
        stream = self.stream(labelled)
        if labelled not in self.held:
            self.held[labelled] = Resident(stream.source, draws.device)
        image, label = self.held[labelled].batch(
            draws.tolist(), stream.crop, stream.seed, labelled, stream.spots
        )
        if not stream.label_maps:
            return image, label
        maps = batches_of([maps_of(each, stream.label_maps) for each in label.cpu().numpy()])
        return image, label, {name: each.to(label.device) for name, each in maps.items()}

    def part(self, labelled: bool) -> Source:
        """The training images that keep their labels, or the others; all of them where every image keeps its label."""
        source = self.open("train")
        kept = range(len(source)) if self.labelled is None else chosen(source.names, self.labelled)
        if len(kept) == len(source):
            return source
        return Part(source, kept if labelled else sorted(set(range(len(source))) - set(kept)))

    def unlabelled_crops(self, count: int) -> Sample:
        """The first of the unlabelled stream, to look at; nothing of it is used up."""
        crops = self.stream(False)
        return collate([crops[number, number % len(crops)] for number in range(count)])

    def share_of_labels(self) -> dict[str, Any] | None:
        """What a result has to say about it; None where every image keeps its label."""
        if self.labelled is None:
            return None
        names = self.part(True).names
        return {
            "images": len(names),
            "of": len(self.open("train")),
            "fingerprint": fingerprint(names),
        }

    # --- judging

    def val_dataloader(self) -> Loader:
        return self.judging("val")

    def test_dataloader(self) -> Loader:
        return self.judging("test")

    def judging(self, split: str) -> Loader:
        """Each image on exactly one rank, none twice: a share may be one shorter than another's."""
        source = self.open(split)
        return Loader(
            Whole(source),
            [[index] for index in range(self.rank, len(source), self.world)],
            self.worker_count(source),
        )

    def worker_count(self, source: Source) -> int:
        """Threads that make batches ahead; on a CPU what is in memory is made in the time that a thread would take from training."""
        if self.workers is not None:
            return self.workers
        made_on_device = self.resident == "device" and source is self.sources.get("train")
        if made_on_device or (isinstance(source, Memory) and not torch.cuda.is_available()):
            return 0
        return max(min(cores() // self.neighbors, 8), 1)

    # --- ranks, and where a run stands

    @property
    def rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def neighbors(self) -> int:
        """Ranks on this machine, which share its cores."""
        return self.trainer.num_devices if self.trainer else 1

    @property
    def micro_batch(self) -> int:
        """Images per rank and forward pass."""
        return self.shared("batch", self.batch)

    @property
    def micro_unlabelled(self) -> int:
        return self.shared("unlabelled", self.unlabelled) if self.semi else 0

    def shared(self, name: str, images: int) -> int:
        parts = self.world * self.accumulate
        if images % parts:
            below, above = images // parts * parts, (images // parts + 1) * parts
            raise DataError(
                f"{name}={images} cannot be shared by {self.world} ranks x {self.accumulate} accumulation steps: "
                f"take {f'{below} or ' if below else ''}{above}, or change accumulate"
            )
        return images // parts

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts a batch when training takes it: what workers fetched ahead is not yet consumed."""
        if self.trainer and self.trainer.training:
            self.consumed += self.micro_batch * self.world
        return batch

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.consumed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.consumed = state_dict["consumed"]


def check(source: Source) -> None:
    """Reads the first, middle and last sample: wrong ids, sizes and formats are mostly wrong everywhere."""
    for index in sorted({0, len(source) // 2, len(source) - 1}):
        source.window(index)


def near(folder: Path) -> str:
    """ " (did you mean ...?)" for a folder of almost that name beside it."""
    from difflib import get_close_matches

    beside = (
        [path.name for path in folder.parent.iterdir() if path.is_dir()]
        if folder.parent.is_dir()
        else []
    )
    match = get_close_matches(folder.name, beside, n=1, cutoff=0.6)
    return f" (did you mean {folder.parent / match[0]}?)" if match else ""
