"""The base of every data set: batches of `(image, label)`, uint8 (B, 3, H, W) and uint8 (B, H, W).

Labels are train ids, 255 ignored. A semi-supervised run gets pairs of batches, `(labeled,
unlabeled)`; the second's label is 255 where a crop shows no image, 0 elsewhere. Where `label_maps`
is set, a labeled training batch has a third member: a dict of maps (B, H, W) of the crops' labels.
"""

import inspect
import os
import sys
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from datamodules.errors import DataError, one_of, whole_number
from datamodules.file_trees import IMAGES, LABELS, Place, Unpaired, by_name, files_in, paired
from datamodules.images import NamedImages
from datamodules.labels import RGB, LabelSet
from datamodules.packs.lookup import find_pack, packs_beside
from datamodules.packs.object_store import RemotePack
from datamodules.reading.decoding import Size
from datamodules.reading.sources import Files, Memory, Part, Source, in_memory
from datamodules.sampling.class_frequencies import Frequencies, frequencies
from datamodules.sampling.class_uniform import Spots, located
from datamodules.sampling.crops import Crop
from datamodules.sampling.labeled_part import chosen, fingerprint
from datamodules.sampling.loader import Loader
from datamodules.sampling.samples import (
    UNLABELED,
    Crops,
    DrawSampler,
    LabelMaps,
    Sample,
    Whole,
    make_batch,
)
from datamodules.thread_pools import cores

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
LEAST = {"batch": 1, "iterations": 1, "accumulate": 1, "seed": 0, "workers": 0, "unlabeled": 0}


class SegmentationData(LightningDataModule):
    """A data set names itself in the class attributes and reads a split in `source`.

    One run is one epoch of `iterations * accumulate` batches, or as many as the trainer's max_steps
    need: Trainer(max_epochs=1, use_distributed_sampler=False). A further epoch goes on with new
    draws, and another fit begins anew. `batch` and `unlabeled` are global: ranks and accumulation
    share them. A checkpoint resumes bit for bit when it was written at an optimizer step; one from
    inside an accumulation goes on with the next draw, without the gradients that were lost.
    """

    labels: LabelSet
    name: ClassVar[str] = ""  # as people write it
    layout: ClassVar[str] = ""  # the tree below root, for messages
    origin: ClassVar[str] = ""  # where to get it
    environment: ClassVar[str | None] = None  # variable that names root
    budget: ClassVar[dict[str, Any]] = {}  # recipe fields that replace the paper's
    caution: ClassVar[str] = ""  # what a result on it does not say
    counts: dict[str, int] = {}  # the official number of images of each split, where there is one
    hidden: ClassVar[dict[str, str]] = {}  # splits without public labels, and what to do instead
    checks_labels: ClassVar[bool] = True  # while it reads them: networks need not do it again

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        batch: int = 8,
        iterations: int = 1000,
        accumulate: int = 1,
        seed: int = 0,
        workers: int | None = None,
        labeled: str | None = None,
        unlabeled: int = 0,
        semi: bool = False,
        resident: Literal["no", "memory"] = "no",
        cache: str | None = None,
        cache_gb: float = 50.0,
        crop: tuple[int, int] = (1024, 1024),
        **augmentation: Any,
    ) -> None:
        """Give the data's root, how it is batched, and how crops are made.

        root: the folder, zips or packs of the data set, or an address of packs.
        labeled: the part of the training images that keeps its labels.
        unlabeled: how many of the others a step takes where `semi` says that a method wants them,
            0 for as many as labeled ones.
        resident: "memory" reads training images once and keeps them.
        cache: a folder that keeps up to `cache_gb` of what is read out of an object store.
        augmentation: any field of `Crop` by its name: scales=(0.5, 2.0), continuous=True, flip=0.5,
            jitter, hue, cat_max_ratio, class_uniform, rotation, rotation_chance, shift, elastic,
            blur, blur_chance, padding.
        """
        super().__init__()
        self.resident = one_of("resident", resident, ("no", "memory"))
        self.given_root = root
        self.crop = Crop(crop, **augmentation)
        self.batch = batch
        self.iterations = iterations
        self.accumulate = accumulate
        self.seed = seed
        self.workers = workers
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.semi = semi
        self.cache = cache
        self.cache_gb = cache_gb
        for field, least in LEAST.items():
            whole_number(field, getattr(self, field) or 0, least)
        self.unlabeled = unlabeled or batch
        self.consumed = 0  # labeled draws of all ranks that training was given
        self.sources: dict[str, Source] = {}
        self.train_loader: Loader | None = None
        self.label_maps: LabelMaps | None = None  # what a network wants made of each label

    # --- what a data set brings

    def source(self, split: str) -> Source:
        """Lists the split's files; pixels are read later, when a crop needs them."""
        raise NotImplementedError

    def instances(self, split: str, index: int) -> np.ndarray | None:
        """An image's instances, int32 (H, W), or None where no file has them.

        A pixel of an instance is train id * 1000 + the instance's number, any other is -1.
        """
        return None

    # --- the files below root

    @property
    def given(self) -> str | Path | None:
        return self.given_root or os.environ.get(self.environment or "")

    @property
    def root(self) -> Path:
        given = self.given
        if not given:
            raise DataError(f"{self.name} needs a folder: {self.remedy}")
        root = Path(given).expanduser()
        if not root.is_dir():
            hint = did_you_mean(root)
            raise DataError(f"{self.name}: there is no folder {root}{hint}: {self.remedy}")
        return root

    @property
    def remedy(self) -> str:
        variable = f" or the environment variable {self.environment}" if self.environment else ""
        origin = f"; {self.origin}" if self.origin else ""
        return f"give data.root=DIR{variable}, where DIR holds {self.layout}{origin}"

    def images_in(self, folder: str) -> dict[str, Path]:
        return files_in(self.root / folder, IMAGES, self.remedy)

    def labels_in(self, folder: str) -> dict[str, Path]:
        return files_in(self.root / folder, LABELS, self.remedy)

    def matching(self, pattern: str, ending: str) -> dict[str, Path]:
        """The files of a pattern such as rgb_anon/fog/train/*/*, by name without `ending`."""
        files = by_name(self.root.glob(pattern + ending), ending)
        if not files:
            raise DataError(f"{self.root} holds no {pattern}{ending}: {self.remedy}")
        return files

    def files(
        self, split: str, images: dict[str, Place], labels: dict[str, Place], **settings: Any
    ) -> Files:
        """A split's images and labels, which have the same names."""
        remedy = "images and labels must have the same names; unpack the archives again"
        pairs = paired(images, labels, remedy)
        self.compare_size(split, len(pairs))
        return Files(pairs, self.labels, names=list(images), **settings)

    @rank_zero_only
    def compare_size(self, split: str, count: int) -> None:
        """Say that a tree is not the official one; to train on a part of it is no mistake."""
        if count != self.counts[split]:
            official = f"the official {self.name} {self.counts[split]}"
            print(f"{self.root}: {split} has {count} images, {official}", file=sys.stderr)

    # --- classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def palette(self) -> tuple[RGB, ...]:
        return self.labels.palette

    # --- reading

    def setup(self, stage: str | None = None) -> None:
        """Open the stage's splits, once, and read a few samples before any training starts."""
        if stage == "fit":
            self.consumed = 0  # of a training before; that of a resumed one is loaded later
        for split in STAGES.get(stage or "fit", ()):
            self.open(split)

    def open(self, split: str) -> Source:
        if split in self.hidden:
            raise DataError(f"{self.name}'s {split} labels are not public: {self.hidden[split]}")
        if split not in self.sources:
            source = self.stored(split)
            if self.cache and not isinstance(source, RemotePack):
                raise DataError(
                    f"data.cache={self.cache} keeps what is read out of an object store, and "
                    f"{self.name} {split} is on this machine: drop data.cache"
                )
            # Wrong ids, sizes and formats are mostly wrong everywhere.
            for index in sorted({0, len(source) // 2, len(source) - 1}):
                source.window(index)
            if split == "train" and self.resident == "memory":
                source = in_memory(source)
            self.sources[split] = source
        return self.sources[split]

    def stored(self, split: str) -> Source:
        """The split's pack, or else its files."""
        data = type(self).__name__.lower()
        options = self.own_options()
        try:
            pack = self.given and find_pack(
                self.given, data, split, options, self.cache, self.cache_gb
            )
            if not pack:
                return self.source(split)
            pack.labels = self.labels
            return pack
        except OSError as problem:
            raise DataError(
                f"{problem.filename} cannot be read ({problem.strerror}): make it readable, "
                "or give another folder"
            ) from None
        except DataError as problem:
            others = packs_beside(self.given, data, split) if self.given else []
            if not others or isinstance(problem, Unpaired):
                raise
            raise DataError(
                f"{self.root} holds {', '.join(others)} and no pack of {split}: "
                f"pack {split} there too, as the others were packed"
            ) from None

    def own_options(self) -> dict[str, Any]:
        """The options that this data set has and others have not, such as other labels."""
        every = inspect.getfullargspec(SegmentationData.__init__).kwonlyargs
        own = inspect.getfullargspec(type(self).__init__).kwonlyargs
        return {name: getattr(self, name, None) for name in own if name not in every}

    # --- training

    def train_dataloader(self) -> Loader:
        workers = self.worker_count(self.open("train"))
        crops = self.crops(labeled=True)
        sampler = self.sampler(crops, self.micro_batch)
        unlabeled = None
        if self.semi:
            others = self.crops(labeled=False)
            unlabeled = others, self.sampler(others, self.micro_unlabeled)
        self.train_loader = Loader(crops, sampler, workers, unlabeled)
        return self.train_loader

    def crops(self, labeled: bool) -> Crops:
        """Crops of the labeled images, or of the others, which have random numbers of their own."""
        source = self.part(labeled)
        if labeled:
            wanted = {"spots": self.class_spots, "label_maps": self.label_maps}
            return Crops(source, self.crop, self.seed, **wanted)
        # their classes are not known, and their color is the method's
        crop = replace(
            self.crop, jitter=0.0, hue=0.0, blur="none", cat_max_ratio=1.0, class_uniform=0.0
        )
        return Crops(source, crop, self.seed + UNLABELED, labeled=False)

    def sampler(self, crops: Crops, batch: int) -> DrawSampler:
        return DrawSampler(
            len(crops),
            crops.seed,
            batch=batch,
            batches=self.batches,
            rank=self.rank,
            world=self.world,
            taken=self.taken,
            spots=crops.spots,
        )

    @property
    def batches(self) -> int:
        """Batches of an epoch on each rank."""
        batches = self.iterations * self.accumulate
        if self.trainer and self.trainer.max_steps > 0:
            batches = min(batches, self.trainer.max_steps * self.trainer.accumulate_grad_batches)
        return batches

    def taken(self) -> int:
        """Batches that training has taken on each rank."""
        return self.consumed // (self.micro_batch * self.world)

    @property
    def batch_size(self) -> int:
        """The batch, by the name that Lightning's BatchSizeFinder looks for."""
        return self.batch

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.batch = value

    @cached_property
    def class_spots(self) -> Spots | None:
        """Where the classes stand, if draws want to know it; all labels are read for it, once."""
        share = self.crop.class_uniform
        if not share:
            return None
        return located(self.part(labeled=True), len(self.class_names), share, self.threads)

    @cached_property
    def class_frequencies(self) -> Frequencies:
        """All labels are read for it, once."""
        return frequencies(self.part(labeled=True), self.threads)

    def class_weights(self, rule: str) -> tuple[float, ...]:
        """Weights by the rule "median_frequency", of the labeled images."""
        one_of("class_weights", rule, ("median_frequency",))
        weights = self.class_frequencies.median_frequency(len(self.class_names))
        if not any(weights):
            raise DataError(
                f"class_weights={rule} counts classes, and no training label shows one: "
                "give a number per class"
            )
        return tuple(weights)

    def part(self, labeled: bool) -> Source:
        """The training images that keep their labels, or the others; or simply all of them."""
        source = self.open("train")
        if self.labeled is None:
            return source
        kept = chosen(source.names, self.labeled)
        if len(kept) == len(source):
            return source
        others = sorted(set(range(len(source))) - set(kept))
        return Part(source, kept if labeled else others)

    def extent(self) -> tuple[int, Size]:
        """How many training images keep their labels, and the largest size that fits in them all.

        No image is decoded for it.
        """
        source = self.part(labeled=True)
        heights, widths = zip(*map(source.size, range(len(source))))
        return len(source), (min(heights), min(widths))

    def unlabeled_crops(self, count: int) -> Sample:
        """The first of the unlabeled crops, to look at; nothing of them is used up."""
        crops = self.crops(labeled=False)
        return make_batch(crops, [(number, number % len(crops)) for number in range(count)])

    def share_of_labels(self) -> dict[str, Any] | None:
        """The labeled part, for a result; None where every image keeps its label."""
        if self.labeled is None:
            return None
        names = self.part(labeled=True).names
        return {
            "images": len(names),
            "of": len(self.open("train")),
            "fingerprint": fingerprint(names),
        }

    # --- evaluation

    def val_dataloader(self) -> Loader:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> Loader:
        return self.eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader:
        """The validation images and their names; for other images see `datamodules.Images`."""
        return DataLoader(NamedImages(self.open("val")))

    def eval_dataloader(self, split: str) -> Loader:
        """Each image on exactly one rank, none twice: a share may be one shorter than another's."""
        source = self.open(split)
        batches = [[index] for index in range(self.rank, len(source), self.world)]
        return Loader(Whole(source), batches, self.worker_count(source))

    def worker_count(self, source: Source) -> int:
        """Threads that make batches ahead.

        On a CPU what is in memory is made in the time that a thread would take from training.
        """
        if self.workers is not None:
            return self.workers
        if isinstance(source, Memory) and not torch.cuda.is_available():
            return 0
        return min(self.threads, 8)

    @property
    def threads(self) -> int:
        """This rank's part of the cores, which it shares with the others of this machine."""
        return max(cores() // (self.trainer.num_devices if self.trainer else 1), 1)

    # --- ranks, and where a run stands

    @property
    def rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def micro_batch(self) -> int:
        """Images per rank and forward pass."""
        return self.shared("batch", self.batch)

    @property
    def micro_unlabeled(self) -> int:
        return self.shared("unlabeled", self.unlabeled) if self.semi else 0

    def shared(self, name: str, images: int) -> int:
        parts = self.world * self.accumulate
        if images % parts:
            below = images // parts * parts
            nearest = f"{below} or {below + parts}" if below else str(parts)
            raise DataError(
                f"{name}={images} cannot be shared by {self.world} ranks x {self.accumulate} "
                f"accumulation steps: take {nearest}, or change accumulate"
            )
        return images // parts

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts a batch when training takes it: what workers fetched ahead is not yet consumed."""
        if self.trainer and self.trainer.training:
            self.consumed += self.micro_batch * self.world
        return batch

    def __str__(self) -> str:
        """One line; Lightning's own would make its loaders."""
        splits = [f"{len(source)} {split}" for split, source in self.sources.items()]
        images = f"{', '.join(splits)} images" if splits else "not read yet"
        crop = "x".join(map(str, self.crop.size))
        where = f"{self.given}: " if self.given else ""
        name = type(self).__name__
        return f"{name}({where}{images}; crops {crop}, batch {self.batch})"

    __repr__ = __str__

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.consumed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.consumed = state_dict["consumed"]


def did_you_mean(folder: Path) -> str:
    """ " (did you mean ...?)" for a folder of almost that name beside it."""
    if not folder.parent.is_dir():
        return ""
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    match = get_close_matches(folder.name, beside, n=1, cutoff=0.6)
    return f" (did you mean {folder.parent / match[0]}?)" if match else ""
