"""Maps as the files that the official Cityscapes script reads, and the script's scores of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.labels import CITYSCAPES
from experiments.evaluation import submission

Maps = Sequence[np.ndarray]


def official_scores(
    predicted: Maps, ids: Maps, folder: Path, *, instances: Maps | None = None
) -> dict:
    """`predicted` holds train ids, `ids` label ids and `instances` instance ids, as the files do;
    without the last, no iIoU.
    """
    pytest.importorskip("cityscapesscripts", reason="the eval script is in the test extra")
    pairs = []
    for index, (guess, truth) in enumerate(zip(predicted, ids, strict=True)):
        name = f"{folder}/a_{index:06d}_000019"
        pairs.append((f"{name}_pred.png", f"{name}_gtFine_labelIds.png"))
        Image.fromarray(CITYSCAPES.decode(guess)).save(pairs[-1][0])
        Image.fromarray(truth.astype(np.uint8)).save(pairs[-1][1])
        if instances is not None:
            Image.fromarray(instances[index].astype(np.uint16)).save(
                f"{name}_gtFine_instanceIds.png"
            )
    return submission.official_scores(pairs, instances=instances is not None)
