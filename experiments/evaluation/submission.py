"""Write the files that Cityscapes' test server takes: label ids, a PNG per image.

They are written into a hidden folder beside the one that was named, which appears when all are
there. Where it was stopped, the same command goes on. On a split with labels the files are scored
by our code and by Cityscapes' own script, where it is installed.
"""

import hashlib
import importlib
import json
import shutil
import sys
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from datamodules.cityscapes import Cityscapes
from datamodules.progress import with_progress
from datamodules.reading.sources import Images
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.files import whole
from experiments.command_line.networks import Checkpoint, ReleasedCheckpoint
from experiments.drawing.label_images import save
from experiments.evaluation.evaluator import open_network
from segmodels.metrics import JaccardIndex, scores
from segmodels.module import SegmentationModule
from segmodels.prediction import predict, prepared, set_inference, set_runtime

NAME = "cityscapes"
FILES = "files"
# The server wants a name that begins with the image's and ends in .png.
ENDING = "_pred_labelIds.png"
TOLERANCE = 1e-6
SCRIPT = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"


def submit(source: Checkpoint, args: Namespace) -> int:
    quiet()
    tested = args.split == "test"
    args.data = NAME
    partial = args.submit
    try:
        with as_user_error():
            module, data = open_network(source, args, labeled=not tested)
            set_inference(module, args.inference, args.precision)
            set_runtime(module, args.runtime, args.device)
            images = data.images(args.split)
            condition = fingerprint(source, args, module, images.names)
        partial = args.submit.with_name(f".{args.submit.name}.{condition}.partial")
        (partial / FILES).mkdir(parents=True, exist_ok=True)
        archive = predict_files(prepared(module), images, data, partial / FILES)
        if not tested:
            check_scores(partial, data, args.split, module)
        (partial / FILES).rename(args.submit)
        for begun in args.submit.parent.glob(f".{args.submit.name}.*.partial"):
            shutil.rmtree(begun)
    except OSError as problem:  # such as a full disk
        what = f"{problem.filename or partial}: {problem.strerror or problem}"
        raise UserError(f"{what}; mend that, and the same command goes on from there") from None
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(
        f"{len(images)} label files of {NAME} {args.split} in {args.submit}, "
        f"and packed in {args.submit / archive.name}"
    )
    if tested:
        print(
            f"{NAME}'s test labels are not public, so there is no mIoU: "
            f"upload {archive.name} to https://www.cityscapes-dataset.com"
        )
    return 0


# --- going on where it stopped


def fingerprint(
    source: Checkpoint, args: Namespace, module: SegmentationModule, names: Sequence[str]
) -> str:
    """Another one where anything differs that the files depend on."""
    file = source
    layout = None
    if isinstance(source, ReleasedCheckpoint):
        file = source.file
        layout = source.layout
    identity = module.identity
    recipe = module.recipe
    conditions = (
        hashlib.sha256(file.read_bytes()).hexdigest(),
        layout,
        args.which,
        identity.evaluated_with,
        identity.overrides,
        recipe.inference,
        recipe.precision,
        module.runtime,
        args.split,
        list(names),
    )
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:12]


# --- the files


def predict_files(
    module: SegmentationModule, images: Images, data: Cityscapes, folder: Path
) -> Path:
    """Write what an earlier try has not written yet, and pack all. A file that exists is whole."""
    if there := len(list(folder.glob(f"*{ENDING}"))):
        print(f"{there} of {len(images)} label files are there already", flush=True)
    files = [folder / f"{name}{ENDING}" for name in images.names]
    for index, file in with_progress(list(enumerate(files)), "predicting"):
        if not file.exists():
            save(data.labels.decode(predict(module, images.image(index))), file)
    archive = folder / "submission.zip"
    with whole(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as out:
        for file in files:
            out.write(file, file.name)
    return archive


def read_label(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


# --- on a split with labels


def check_scores(partial: Path, data: Cityscapes, split: str, module: SegmentationModule) -> None:
    """Our score of the files, and the official script's, which must be the same."""
    source = data.open(split)
    ours = JaccardIndex(module.num_classes)
    truths = partial / "truth"
    truths.mkdir(exist_ok=True)
    pairs = []
    for index, name in with_progress(list(enumerate(source.names)), "checking"):
        file = partial / FILES / f"{name}{ENDING}"
        truth = truths / f"{name}_gtFine_labelIds.png"
        ids = source.numbers(index)
        save(ids, truth)
        predicted = data.labels.encode(read_label(file), file)
        label = data.labels.encode(ids, name)
        ours.update(torch.from_numpy(predicted), torch.from_numpy(label))
        pairs.append((str(file), str(truth)))
    miou = scores(ours.confmat)["miou"]
    print(f"mIoU of the files on {split}: {100 * miou:.4f}")
    official = official_scores(pairs)
    if official is None:
        print(
            "not checked with the official script: pip install cityscapesscripts, and submit again"
        )
        return
    theirs = official["averageScoreClasses"]
    if abs(theirs - miou) > TOLERANCE:
        raise UserError(
            f"the official script says {100 * theirs:.4f}: "
            f"please report this with the files in {partial}"
        )
    print(f"the official script says the same: {100 * theirs:.4f}")


def official_scores(
    pairs: Sequence[tuple[str, str]], *, instances: bool = False
) -> dict[str, Any] | None:
    """The scores of cityscapesScripts for files of (predicted, true) label ids; None without it.

    For iIoU it looks for a file of instances under the true one's official name.
    """
    script = official_script()
    if script is None:
        return None
    script.args.evalInstLevelScore = instances
    script.args.quiet = True
    script.args.JSONOutput = False
    predicted, true = map(list, zip(*pairs))
    in1d = getattr(np, "in1d", np.isin)  # numpy lost it, and the script still calls it
    with warnings.catch_warnings(action="ignore"), patch.object(np, "in1d", in1d, create=True):
        return script.evaluateImgLists(predicted, true, script.args)


def official_script() -> ModuleType | None:
    """The evaluation script of cityscapesScripts, where it is installed."""
    # It reads the command line when it is imported.
    with warnings.catch_warnings(action="ignore"), patch.object(sys, "argv", ["evaluate"]):
        try:
            return importlib.import_module(SCRIPT)
        except ImportError:
            return None
