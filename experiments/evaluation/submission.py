"""The files that Cityscapes' test server takes: label ids, one PNG per image, by the image's official name.

They are written into a hidden folder beside the one that was asked for, which appears when all is there. What was stopped goes on there.
"""

import hashlib
import json
import shutil
import sys
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.progress import with_progress
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.files import whole, write_json
from experiments.command_line.networks import ReleasedCheckpoint
from experiments.command_line.overrides import data_options
from experiments.command_line.values import PLACES
from experiments.drawing.label_images import save
from experiments.evaluation.cityscapes_script import official_scores
from experiments.evaluation.score import open_data, stored_options
from experiments.records.trained_networks import options_of, trained
from segmodels.metrics import JaccardIndex, scores
from segmodels.module import SegmentationModule
from segmodels.prediction import choose_device, predict, set_inference

NAME, FILES = "cityscapes", "files"
ENDING = (
    "_pred_labelIds.png"  # the server asks that a name begins with the image's and ends in .png
)
AGREE = 1e-6


def submit(source: Path | ReleasedCheckpoint, asked: Namespace) -> int:
    quiet()
    begun = asked.submit.with_name(f".{asked.submit.name}.partial")
    try:
        with as_user_error():
            module = trained(source, asked.which, options_of(source, asked.model))
            options = stored_options(source, module, NAME) | data_options(NAME, asked.overrides)
            data = open_data(
                NAME, options, asked.split, source, module, labelled=asked.split != "test"
            )
            set_inference(module, asked.inference, asked.precision)
            images = data.images(asked.split)
            begin(begun, note_of(source, asked, module, options, images.names))
        predict_files(module.to(choose_device()), images, data, begun / FILES)
        archive = packed(begun / FILES, images.names)
        if asked.split != "test":
            self_check(begun, data, asked.split, module)
        (begun / FILES).rename(asked.submit)
        shutil.rmtree(begun)
    except OSError as problem:  # such as a full disk
        what = f"{problem.filename or begun}: {problem.strerror or problem}"
        raise UserError(f"{what}; mend that, and the same command goes on from there") from None
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(
        f"{len(images)} label files of {NAME} {asked.split} in {asked.submit}, and packed in {asked.submit / archive.name}"
    )
    if asked.split == "test":
        print(
            f"{NAME}'s test labels are not public, so no mIoU is told: upload {archive.name} to https://www.cityscapes-dataset.com"
        )
    return 0


# --- going on where it stopped


def note_of(
    source: Path | ReleasedCheckpoint,
    asked: Namespace,
    module: SegmentationModule,
    options: dict[str, Any],
    names: list[str],
) -> dict[str, Any]:
    """All that the files depend on; as JSON gives it back."""
    file, layout = (
        (source.file, source.layout) if isinstance(source, ReleasedCheckpoint) else (source, None)
    )
    with file.open("rb") as content:
        checkpoint = hashlib.file_digest(content, "sha256").hexdigest()
    note = {
        "checkpoint": checkpoint,
        "layout": layout,
        "network": asked.which,
        "model": module.identity.evaluated_with or None,
        "inference": module.recipe.inference,
        "precision": module.recipe.precision,
        "split": asked.split,
        "options": {name: value for name, value in options.items() if name not in PLACES},
        "images": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    }
    return json.loads(json.dumps(note))


def begin(folder: Path, note: dict[str, Any]) -> None:
    """A new folder, or one that the same work has begun to fill."""
    stored = folder / "asked.json"
    if stored.is_file():
        before = json.loads(stored.read_text())
        if changed := [name for name, value in note.items() if before.get(name) != value]:
            other = f"an unfinished submission with another {', '.join(changed)}"
            raise UserError(
                f"{folder} holds {other}; give what was given then, remove that folder, or give another --submit"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(stored, note)
    (folder / FILES).mkdir(exist_ok=True)


# --- the files


def predict_files(module: SegmentationModule, images: Any, data: Any, folder: Path) -> None:
    """Each file is read again once it is written, and one that is there from an earlier try is not written again."""
    judged = {number % 256 for number in data.labels.ids}
    if there := len(list(folder.glob(f"*{ENDING}"))):
        print(f"{there} of {len(images)} label files are there already", flush=True)
    for index in with_progress(range(len(images)), "predicting"):
        image, file = images.image(index), folder / f"{images.names[index]}{ENDING}"
        if right(file, image.shape[:2], judged):
            continue
        save(data.labels.decode(predict(module, image)), file)
        if not right(file, image.shape[:2], judged):
            raise UserError(
                f"{file} was written wrongly; the disk may be failing: predict into another folder"
            )


def right(file: Path, size: tuple[int, int], judged: set[int]) -> bool:
    """One 8-bit channel of the image's size, and no id that is not judged."""
    try:
        with Image.open(file) as picture:
            ids = np.asarray(picture)
    except (OSError, SyntaxError, ValueError):  # none is there, or it breaks off
        return False
    return ids.dtype == np.uint8 and ids.shape == size and set(np.unique(ids).tolist()) <= judged


def packed(folder: Path, names: list[str]) -> Path:
    archive = folder / "submission.zip"
    with whole(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as out:
        for name in names:
            out.write(folder / f"{name}{ENDING}", f"{name}{ENDING}")
    return archive


def self_check(begun: Path, data: Any, split: str, module: SegmentationModule) -> None:
    """On a split with labels: our score out of the files, and the official script's, which must be the same."""
    source, judge = data.open(split), JaccardIndex(module.num_classes)
    truths = begun / "truth"
    truths.mkdir(exist_ok=True)
    pairs = []
    for index, name in with_progress(list(enumerate(source.names)), "checking"):
        guess, truth = begun / FILES / f"{name}{ENDING}", truths / f"{name}_gtFine_labelIds.png"
        numbers = source.numbers(index)
        save(numbers, truth)
        with Image.open(guess) as picture:
            predicted = data.labels.encode(np.asarray(picture), guess)
        judge.update(
            torch.from_numpy(predicted), torch.from_numpy(data.labels.encode(numbers, name))
        )
        pairs.append((str(guess), str(truth)))
    ours, theirs = scores(judge.confmat)["miou"], official_scores(pairs)
    print(f"mIoU of the files on {split}: {100 * ours:.4f}")
    if theirs is None:
        print(
            "not checked with the official script: pip install cityscapesscripts, and submit again"
        )
    elif abs(theirs["averageScoreClasses"] - ours) > AGREE:
        raise UserError(
            f"the official script says {100 * theirs['averageScoreClasses']:.4f}: please report this with the files in {begun}"
        )
    else:
        print(f"the official script says the same: {100 * theirs['averageScoreClasses']:.4f}")
