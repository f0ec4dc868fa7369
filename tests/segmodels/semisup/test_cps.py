"""Tests of CPS: the labels of each network, with and without CutMix, and whole runs."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import segmodels
from experiments import run
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import from_checkpoint
from segmodels.parts import image_mixing
from segmodels.semisup.cps import CPS
from tests.support.networks import Tiny, Valid, batch
from tests.support.runs import CPU, INTERVALS, SCENES, STEPS, assert_one_sentence, only

SIZE = (32, 48)


class TwoHeads(Tiny):
    """One output for training alone."""

    auxiliary_weight = 0.4

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Conv2d(8, 3, 1)

    def auxiliary_outputs(self, features: Tensor) -> dict[str, Tensor]:
        return {"auxiliary": self.auxiliary(features)}


def padded_batch() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    labeled, unlabeled = batch()
    labeled[1][:, :6] = 255
    unlabeled[1][:, :, 40:] = 255
    unlabeled[1][1, 20:] = 255
    return labeled, unlabeled


def full(logits: Tensor, margin: int) -> Tensor:
    size = [side - 2 * margin for side in SIZE]
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def inside(pixels: Tensor, margin: int) -> Tensor:
    return pixels[..., margin : SIZE[0] - margin, margin : SIZE[1] - margin]


@pytest.mark.parametrize("network", [Tiny, TwoHeads, Valid])
def test_each_network_is_taught_by_the_classes_of_the_other_on_every_image(
    network: type[SegmentationModule],
) -> None:
    module = CPS(network, weight=2.0).train()
    (image, label), (more, padding) = padded_batch()
    terms = module.losses(((image, label), (more, padding)))
    margin = network.margin
    logits = {}
    for name in module.networks:
        each = module.get_submodule(name)
        passes = [each.logits(module.normalized(images)) for images in (image, more)]
        logits[name] = full(torch.cat(passes), margin)
    unasked = inside(torch.cat([label, padding]), margin) == 255
    for own, other in (("first", "second"), ("second", "first")):
        classes = logits[other].argmax(1).masked_fill(unasked, 255)
        slow = F.cross_entropy(logits[own], classes, ignore_index=255)
        assert terms[f"{own}_cps"].item() == pytest.approx(2 * slow.item(), rel=1e-5)
        supervised = module.get_submodule(own).losses((image, label))
        assert set(supervised) == ({"main", "auxiliary"} if network is TwoHeads else {"main"})
        for name, term in supervised.items():
            assert terms[f"{own}_{name}"].item() == pytest.approx(term.item(), rel=1e-5)
    agreed = logits["first"].argmax(1) == logits["second"].argmax(1)
    assert module.watched["agreed"].item() == pytest.approx(agreed[~unasked].float().mean().item())


@pytest.mark.parametrize("network", [Tiny, TwoHeads, Valid])
def test_with_cutmix_each_predicts_the_mix_of_what_the_other_saw(
    network: type[SegmentationModule],
) -> None:
    module = CPS(network, weight=2.0, cutmix=True).train()
    labeled, (image, padding) = padded_batch()
    torch.manual_seed(3)
    terms = module.losses((labeled, (image, padding)))
    torch.manual_seed(3)
    mask = image_mixing.boxes(4, SIZE, 0.25, 0.5, number=3)
    margin, numbers = network.margin, torch.arange(4)
    following = (numbers + 1) % 4
    both = torch.where(mask[:, None], image, image[following])
    said, classes = {}, {}
    for name in module.networks:
        each = module.get_submodule(name)
        before = full(each.logits(module.normalized(image)), margin).argmax(1)
        before = before.masked_fill(inside(padding, margin) == 255, 255)
        classes[name] = torch.where(inside(mask, margin), before, before[following])
        said[name] = full(each.logits(module.normalized(both)), margin)
    for own, other in (("first", "second"), ("second", "first")):
        slow = F.cross_entropy(said[own], classes[other], ignore_index=255)
        assert terms[f"{own}_cps"].item() == pytest.approx(2 * slow.item(), rel=1e-5)


@pytest.mark.parametrize("cutmix", [False, True])
def test_what_a_network_teaches_gives_it_no_gradient(cutmix: bool) -> None:
    module = CPS(Tiny, cutmix=cutmix).train()
    module.losses(padded_batch())["second_cps"].backward()
    assert all(each.grad is None for each in module.first.parameters())
    assert all(each.grad is not None for each in module.second.parameters())


@pytest.mark.parametrize("cutmix", [False, True])
def test_images_of_padding_alone_teach_nothing(cutmix: bool) -> None:
    module = CPS(Tiny, cutmix=cutmix).train()
    (image, label), (more, padding) = padded_batch()
    nothing = torch.full_like(padding, 255)
    terms = module.losses(((image, torch.full_like(label, 255)), (more, nothing)))
    assert terms["first_cps"] == terms["second_cps"] == 0
    assert torch.isfinite(sum(terms.values()))


def test_three_boxes_share_an_area_and_turn_back_where_they_overlap() -> None:
    torch.manual_seed(0)
    mask = image_mixing.boxes(500, (120, 160), 0.25, 0.5, number=3)
    share = mask.float().mean((1, 2))
    assert share.max() <= 0.51 and 0.2 < share.mean() < 0.375  # where boxes overlap, it is less
    assert share.unique().numel() > 300
    torch.manual_seed(0)
    three = image_mixing.boxes(3, (120, 160), 0.25, 0.25, number=3)
    torch.manual_seed(0)
    share, split, down, right = torch.rand(4, 9)
    slow = torch.zeros(3, 120, 160, dtype=torch.bool)
    for index in range(9):
        tall = (0.25 ** split[index] / 3**0.5 * 120).round()
        wide = (0.25 ** (1 - split[index]) / 3**0.5 * 160).round()
        top = int((down[index] * (120 - tall)).round())
        left = int((right[index] * (160 - wide)).round())
        slow[index % 3, top : top + int(tall), left : left + int(wide)] ^= True
    assert torch.equal(three, slow)


def test_both_networks_are_optimized_and_differ_in_their_draw_alone() -> None:
    torch.manual_seed(0)
    module = CPS(partial(segmodels.experiment("bisenet/xception39").build, num_classes=3))
    groups = module.configure_optimizers()["optimizer"].param_groups
    learned = {id(each) for group in groups for each in group["params"]}
    assert learned == {id(each) for each in module.parameters()}
    first, second = (set(each.state_dict()) for each in (module.first, module.second))
    assert first == second
    assert not torch.equal(module.first.classifier[1].weight, module.second.classifier[1].weight)


def test_two_networks_that_start_alike_are_refused() -> None:
    start = Tiny()

    def make() -> Tiny:
        network = Tiny()
        network.load_state_dict(start.state_dict())
        return network

    with pytest.raises(ValueError, match="start alike learn nothing from each other"):
        CPS(make)
    with pytest.raises(ValueError, match=r"semi\.weight=-1; it must be at least 0"):
        CPS(Tiny, weight=-1)


@pytest.mark.parametrize("cutmix", [False, True])
@pytest.mark.parametrize("network", [Tiny, Valid])
def test_a_preview_shows_what_each_teaches(cutmix: bool, network: type[SegmentationModule]) -> None:
    module = CPS(network, cutmix=cutmix).eval()
    image, padding = padded_batch()[1]
    shown = module.preview((image, padding))
    assert {each.shape[-2:] for each in shown.values()} == {SIZE}
    assert torch.equal(shown["unlabeled image"], image)
    assert ("both networks see" in shown) == cutmix
    first, second = shown["the first teaches"], shown["the second teaches"]
    assert torch.equal(shown["they agree (white)"], (first == second) & (first != 255))
    if not cutmix:
        size = [side - 2 * network.margin for side in SIZE]
        classes = full(module.first.logits(module.normalized(image)), network.margin).argmax(1)
        classes = classes.masked_fill(inside(padding, network.margin) == 255, 255)
        assert list(classes.shape[1:]) == size
        assert torch.equal(inside(first, network.margin), classes.to(torch.uint8))


# --- whole runs

WORDS = ["--semi", "cps", "data.labeled=1/2", "recipe.batch=2", "data.unlabeled=2"]


def run_cps(folder: Path, *words: str) -> int:
    row = ["--model", "bisenet/xception39", "--data", "streets"]
    return run.main(
        [*row, *SCENES, *STEPS, *INTERVALS, *CPU, *WORDS, "--runs", str(folder), *words]
    )


@pytest.mark.slow
def test_a_run_scores_both_and_leaves_both(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_cps(tmp_path / "runs", "semi.cutmix=true") == 0
    folder = only(tmp_path / "runs")
    result = json.loads((folder / "result.json").read_text())
    assert result["semi"] == {"method": "cps", "weight": 1.5, "cutmix": True}
    assert result["network"] == "first" and set(result["others"]) == {"second"}
    plain = segmodels.experiment("bisenet/xception39").build()
    assert result["parameters"] == sum(each.numel() for each in plain.parameters())
    head = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    terms = {"train/first_main", "train/second_main", "train/first_cps", "train/second_cps"}
    assert terms | {"train/agreed", "val/mIoU", "val/second_mIoU"} <= set(head)
    with Image.open(folder / "pictures" / "semi.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
        assert sheet.size[0] == 5 * 326 - 6
    assert set(np.unique(pixels[60:-10, 4 * 326 + 5 : -5])) <= {0, 255}
    file = folder / "checkpoints" / "last.ckpt"
    first, second = from_checkpoint(file), from_checkpoint(file, "second")
    assert not torch.equal(first.classifier[1].weight, second.classifier[1].weight)
    capsys.readouterr()
    assert run_cps(tmp_path / "others", "--init", str(file)) == 2
    assert_one_sentence(capsys.readouterr().err, "two networks that start alike")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["semi.cutmix=true", "data.unlabeled=1"], "cutmix mixes images in pairs"),
        (["semi.cut_mix=true"], "did you mean semi.cutmix"),
        (["semi.weight=-2"], "semi.weight=-2.0; it must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    words: list[str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_cps(tmp_path / "runs", *words) == 2
    assert_one_sentence(capsys.readouterr().err, answer)
    assert not (tmp_path / "runs").exists()
