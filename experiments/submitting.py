"""The files that Cityscapes' test server takes: label ids, one PNG per image, by the image's official name."""

import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules import DataError
from datamodules.progress import shown
from experiments.command_line import Refused, data_options, refuse
from experiments.door import door, quiet
from experiments.judging import open_data, stored_options
from experiments.networks import Authors, trained
from experiments.official import official_scores
from experiments.pictures import save
from experiments.seeing import device_of, label_of, settle
from segmodels.metrics import JaccardIndex, scores
from segmodels.module import SegmentationModule

ENDING = "_pred_labelIds.png"  # the server asks that a name begins with the image's and ends in .png
AGREE = 1e-6


def submit(source: Path | Authors, asked: Namespace) -> int:
    quiet()
    try:
        with door():
            module = trained(source, asked.which)
            name = asked.data or "cityscapes"
            if name != "cityscapes":
                raise Refused(f"--submit writes files for Cityscapes' test server, and {name} has another; leave out --data")
            options = stored_options(source, module, name) | data_options(name, asked.overrides)
            data = open_data(name, options, asked.split, source, module, labelled=asked.split != "test")
            settle(module, asked.inference, asked.precision)
            images = data.images(asked.split)
            if asked.submit.exists():
                raise Refused(f"{asked.submit} exists and is not overwritten; give another --submit")
            asked.submit.mkdir(parents=True)
        module.to(device_of())
        for index in shown(range(len(images)), "predicting"):
            label = label_of(module, images.image(index))
            save(data.labels.decode(label), asked.submit / f"{images.names[index]}{ENDING}")
        archive = packed(asked.submit, images.names)
        check_files(asked.submit, data, images)
        print(f"{len(images)} label files of {name} {asked.split} in {asked.submit}, and packed in {archive}")
        if asked.split == "test":
            print(f"{name}'s test labels are not public, so no mIoU is told: upload {archive.name} to https://www.cityscapes-dataset.com")
        else:
            self_check(asked.submit, data, asked.split, module)
    except (Refused, DataError) as problem:
        return refuse(problem)
    return 0


def packed(folder: Path, names: list[str]) -> Path:
    archive = folder / "submission.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for name in names:
            out.write(folder / f"{name}{ENDING}", f"{name}{ENDING}")
    return archive


def check_files(folder: Path, data: Any, images: Any) -> None:
    """What was written is read again: one 8-bit channel of the image's size, and no id that is not judged."""
    judged = {number % 256 for number in data.labels.ids}
    for index, name in enumerate(images.names):
        with Image.open(folder / f"{name}{ENDING}") as picture:
            ids, size = np.asarray(picture), images.image(index).shape[:2]
        if ids.dtype != np.uint8 or ids.shape != size or not set(np.unique(ids).tolist()) <= judged:
            raise Refused(f"{folder / name}{ENDING} was written wrongly; the disk may be full or failing: predict into another folder")


def self_check(folder: Path, data: Any, split: str, module: SegmentationModule) -> None:
    """On a split with labels: our score out of the files, and the official script's, which must be the same."""
    source, judge = data.open(split), JaccardIndex(module.num_classes)
    truths = folder / "truth"
    truths.mkdir()
    pairs = []
    for index, name in enumerate(source.names):
        guess, truth = folder / f"{name}{ENDING}", truths / f"{name}_gtFine_labelIds.png"
        save(source.numbers(index), truth)
        with Image.open(guess) as picture:
            predicted = data.labels.encode(np.asarray(picture), guess)
        judge.update(torch.from_numpy(predicted), torch.from_numpy(source.label(index)))
        pairs.append((str(guess), str(truth)))
    ours, theirs = scores(judge.confmat)["miou"], official_scores(pairs)
    for _, truth in pairs:
        Path(truth).unlink()
    truths.rmdir()
    print(f"mIoU of the files on {split}: {100 * ours:.4f}")
    if theirs is None:
        print("not checked with the official script: pip install cityscapesscripts, and submit again")
    elif abs(theirs["averageScoreClasses"] - ours) > AGREE:
        raise Refused(f"the official script says {100 * theirs['averageScoreClasses']:.4f}: please report this with the files")
    else:
        print(f"the official script says the same: {100 * theirs['averageScoreClasses']:.4f}")
