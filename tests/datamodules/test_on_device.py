"""Resident data: what is made on the device is what workers make, and a run with it resumes like any other."""

from colorsys import hsv_to_rgb, rgb_to_hsv
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from datamodules import DataError
from datamodules.reading.sources import Memory
from datamodules.sampling.crops import Crop
from datamodules.sampling.on_device import (
    Resident,
    brighter,
    contrasted,
    recolored,
    saturated,
    turned,
)
from datamodules.sampling.samples import Crops
from tests.support import trees
from tests.support.data import QUIET, Noise, Witness, as_rank

CPU = torch.device("cpu")
KINDS = {
    "a range of scales": Crop((48, 64), (0.5, 2.0), continuous=True),
    "a set of scales": Crop((48, 64), (0.5, 0.75, 1.0, 1.25, 2.0)),
    "larger than the image": Crop((90, 200), (0.5, 1.5), continuous=True),
    "larger, on black": Crop((90, 200), (0.5, 1.5), continuous=True, padding="black"),
    "larger, mirrored": Crop((90, 200), (0.5, 1.5), continuous=True, padding="mirror"),
    "one scale": Crop((33, 47)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_resident_crops_are_the_workers_to_one_gray_level_and_no_label(kind: str) -> None:
    source = Memory.of([trees.noise((61, 97), tuple(range(19)), seed=each) for each in range(5)])
    crops, resident = Crops(source, KINDS[kind], seed=3), Resident(source, CPU)
    draws = [(number, number % 5) for number in range(50)]
    images, labels = resident.batch(draws, KINDS[kind], seed=3)
    for draw, image, label in zip(draws, images, labels, strict=True):
        wanted, numbers = crops[draw]
        assert torch.equal(label, numbers)
        assert (image.int() - wanted.int()).abs().max() <= 1
    assert images.dtype == labels.dtype == torch.uint8 and images.is_contiguous()


def test_color_does_what_its_words_say() -> None:
    pixels = torch.rand(20, 30, 3) * 200 + 20
    assert torch.allclose(brighter(pixels, 0.5), pixels / 2)
    assert contrasted(pixels, 0.0).std() < 1e-4 and torch.allclose(contrasted(pixels, 1.0), pixels)
    flat = saturated(pixels, 0.0)
    assert torch.allclose(flat[..., 0], flat[..., 2]) and torch.allclose(
        saturated(pixels, 1.0), pixels, atol=1e-4
    )
    one, two = (recolored(pixels.clone(), 0.4, np.random.default_rng(seed)) for seed in (0, 0))
    assert torch.equal(one, two) and not torch.allclose(
        one, recolored(pixels.clone(), 0.4, np.random.default_rng(1))
    )


@pytest.mark.parametrize("share", [-0.25, 0.1, 0.5])
def test_hue_moves_on_along_the_circle_as_in_a_loop_over_pixels(share: float) -> None:
    pixels = torch.randint(256, (6, 50, 3), dtype=torch.uint8)
    pixels[0] = pixels[0, :, :1]  # gray
    pixels[1, :, 1] = pixels[1, :, 0]  # two colors alike
    slow = []
    for color in (pixels.flatten(0, 1).double() / 255).tolist():
        hue, saturation, value = rgb_to_hsv(*color)
        slow.append(hsv_to_rgb((hue + share) % 1, saturation, value))
    wanted = 255 * torch.tensor(slow).view(6, 50, 3)
    assert torch.allclose(turned(pixels.float(), share), wanted, atol=0.01)


def test_hue_is_drawn_for_every_crop_up_to_its_share() -> None:
    red = torch.tensor([200.0, 20.0, 20.0]).repeat(2, 2, 1)
    turns = []
    for seed in range(200):
        found = recolored(red.clone(), 0.0, np.random.default_rng(seed), hue=0.25)
        turns.append((rgb_to_hsv(*(found[0, 0] / 255).tolist())[0] + 0.5) % 1 - 0.5)
    assert min(turns) == pytest.approx(-0.25, abs=0.02)
    assert max(turns) == pytest.approx(0.25, abs=0.02) and abs(np.mean(turns)) < 0.03


@pytest.mark.parametrize("resident", ["memory", "device"])
@pytest.mark.parametrize("semi", [False, True])
def test_batches_and_resuming_are_those_of_the_files(
    resident: str, semi: bool, tmp_path: Path
) -> None:
    class Files(Noise):
        """Not in memory yet, for all that the base knows."""

        def source(self, split: str):
            held = super().source(split)
            return type(
                "Reading",
                (),
                {name: getattr(held, name) for name in ("names", "size", "label", "window")}
                | {"__len__": lambda _: len(held)},
            )()

    settings = {
        "crop": (8, 8),
        "scales": (0.5, 1.5),
        "continuous": True,
        "batch": 4,
        "iterations": 6,
        "labelled": "3/7",
        "semi": semi,
    }
    plain, kept = (
        as_rank(Files(**settings, workers=0, resident=each), 0, 1) for each in ("no", resident)
    )
    kept.load_state_dict({"consumed": 8})
    wanted = list(plain.train_dataloader())[2:]
    found = [kept.on_after_batch_transfer(batch, 0) for batch in kept.train_dataloader()]
    assert len(found) == len(wanted) == 4
    for one, other in zip(found, wanted, strict=True):
        for (image, label), (theirs, numbers) in zip(
            one if semi else [one], other if semi else [other], strict=True
        ):
            assert torch.equal(label, numbers) and (image.int() - theirs.int()).abs().max() <= 1


def test_a_run_with_resident_data_learns_and_judges() -> None:
    data, module = Noise(crop=(8, 8), batch=4, iterations=3, resident="device"), Witness()
    lightning.Trainer(**QUIET, max_steps=3, enable_checkpointing=False).fit(module, datamodule=data)
    assert (
        [len(batch) for batch in module.seen] == [4, 4, 4]
        and len(module.judged) >= 5
        and data.consumed == 12
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"rotation": 10.0}, r"cannot do rotation=10.0: .* recipe\.rotation=0.0"),
        ({"shift": 5.0}, r"cannot do shift=5.0"),
        ({"elastic": 10.0}, r"cannot do elastic=10.0"),
        ({"blur": "kernel:5"}, r"cannot do blur=kernel:5: take .* or no, or recipe\.blur=none"),
    ],
)
def test_what_is_not_made_on_the_device_is_refused_there_alone(field: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Noise(resident="device", **field)
    Noise(resident="memory", **field)


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.resident=gpu is none of no, memory, device"):
        Noise(resident="gpu")
