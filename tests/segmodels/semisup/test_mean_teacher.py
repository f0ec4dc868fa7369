"""Tests of Mean Teacher: masks, the pixels with a loss, the teacher, and whole runs."""

import json
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import segmodels
from datamodules import DataError
from datamodules.module import SegmentationData
from datamodules.sampling.samples import UNLABELED
from experiments import evaluate, run
from experiments.training import checkpoints
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import from_checkpoint
from segmodels.parts import image_mixing
from segmodels.parts.schedules import sigmoid_ramp
from segmodels.semisup import method, names
from segmodels.semisup.mean_teacher import MeanTeacher
from tests.support.children import after, brought_up, die, status
from tests.support.data import Noise, as_rank
from tests.support.networks import Tiny, Valid, batch, images
from tests.support.runs import (
    CPU,
    INTERVALS,
    SCENES,
    STEPS,
    assert_one_sentence,
    assert_same_state,
    content,
    only,
)

PLAIN = {"color": 0.0, "gray": 0.0, "blur": 0.0}  # the mask alone


# --- masks


def test_a_box_has_the_share_of_the_area_that_was_asked_for_and_lies_inside() -> None:
    size, count = (200, 300), 400
    half = image_mixing.boxes(count, size, 0.5, 0.5)
    share = half.float().mean((1, 2))
    assert (share - 0.5).abs().max() < 0.01  # sides are whole pixels
    for mask in half:  # one rectangle, nothing cut off at the border
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert rows * columns == mask.sum()
    ratio = (half.any(2).sum(1) / size[0]).log() / np.log(
        0.5
    )  # the share's exponent that went into the height: uniform
    assert abs(ratio.mean() - 0.5) < 0.05 and abs(ratio.std() - 12**-0.5) < 0.03
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in half}) > 300  # everywhere


def test_strong_color_blurs_by_classmixs_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """sigma of trainSSL.py in WilhelmT/ClassMix: from 0.15 to 1.15."""
    seen = []
    monkeypatch.setattr(image_mixing, "blurred", lambda image, *how: seen.append(how) or image)
    MeanTeacher(Tiny).perturbed(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert seen == [(0.5, 0.15, 1.15)]


def test_erased_boxes_have_every_area() -> None:
    share = image_mixing.boxes(2000, (100, 150), 0.0, 1.0).float().mean((1, 2))
    assert abs(share.mean() - 0.5) < 0.02 and abs(share.std() - 12**-0.5) < 0.02


@pytest.mark.parametrize(
    ("masks", "least", "most"), [("cutmix", 0.5, 0.5), ("cutout", 0.0, 1.0), ("none", 0.0, 0.0)]
)
def test_a_mask_hides_the_share_of_an_image_that_the_authors_scripts_name(
    masks: str, least: float, most: float
) -> None:
    """--mask_prop_range of run_cityscapes_experiments.sh in Britefury/cutmix-semisup-seg."""
    mask = MeanTeacher(Tiny, masks=masks).mask(torch.zeros(400, 100, 150, dtype=torch.uint8))
    hidden = 1 - mask.float().mean((1, 2))
    assert hidden.min() == pytest.approx(least, abs=0.02)
    assert hidden.max() == pytest.approx(most, abs=0.02)
    assert hidden.mean() == pytest.approx((least + most) / 2, abs=0.05)


@pytest.mark.parametrize("present", [1, 2, 5, 8])
def test_half_of_the_classes_are_chosen_whole_and_the_ignored_never(present: int) -> None:
    label = torch.arange(present, dtype=torch.uint8).repeat(6, 20, 5)  # (6, 20, 5 * present)
    label[:, :3] = 255
    mask = image_mixing.half_of_classes(label)
    for each, chosen in zip(label, mask):
        inside, outside = set(each[chosen].tolist()), set(each[~chosen].tolist())
        assert len(inside) == present // 2 and 255 not in inside
        assert not inside & outside
    if present > 2:
        assert (
            len({tuple(each[chosen].unique().tolist()) for each, chosen in zip(label, mask)}) > 1
        )  # chosen anew for each image


def test_complexmix_chooses_anew_in_each_cell() -> None:
    label = torch.randint(0, 6, (3, 64, 96), dtype=torch.uint8)
    mask = image_mixing.half_of_classes(label, grid=4)
    chosen = []
    for each, picked in zip(label, mask):
        for top in range(0, 64, 16):
            for left in range(0, 96, 24):
                cell, inside = (
                    each[top : top + 16, left : left + 24],
                    picked[top : top + 16, left : left + 24],
                )
                assert len(cell[inside].unique()) == 3
                assert not set(cell[inside].tolist()) & set(cell[~inside].tolist())
                chosen.append(tuple(cell[inside].unique().tolist()))
    assert len(set(chosen)) > 10
    odd = image_mixing.half_of_classes(torch.randint(0, 6, (2, 61, 97), dtype=torch.uint8), grid=4)
    assert odd.shape == (2, 61, 97)


def test_color_and_blur_change_what_they_should() -> None:
    image = torch.rand(6, 3, 24, 40)
    assert torch.equal(image_mixing.recolored(image, 0.4, chance=0.0, gray=0.0), image)
    assert torch.equal(image_mixing.blurred(image, chance=0.0), image)
    strong = image_mixing.recolored(image, 0.4, chance=1.0, gray=0.0)
    assert all((one - other).abs().mean() > 0.01 for one, other in zip(strong, image))
    assert strong.min() >= 0 and strong.max() <= 1
    gray = image_mixing.recolored(image, 0.4, chance=1.0, gray=1.0)
    assert torch.allclose(gray[:, 0], gray[:, 1]) and torch.allclose(gray[:, 1], gray[:, 2])
    blurry = image_mixing.blurred(image, chance=1.0, least=1.0, most=1.0)
    kernel = torch.exp(-(torch.arange(-4, 5.0) ** 2) / 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    slow = F.conv2d(
        F.pad(image, (4,) * 4, mode="reflect").flatten(0, 1)[:, None], kernel[None, None]
    ).view_as(image)
    assert (blurry - slow).abs().max() < 1e-3  # cut off at three or four sigma
    assert torch.allclose(
        image_mixing.turned(image, torch.full((6,), 1 / 3)), image[:, [2, 0, 1]], atol=1e-6
    )  # red becomes green


def test_the_weight_comes_in_along_a_ramp() -> None:
    ramp = sigmoid_ramp(10)
    assert (
        ramp(0) == pytest.approx(np.exp(-5))
        and ramp(5) == pytest.approx(np.exp(-1.25))
        and ramp(10) == ramp(99) == 1
    )
    assert sigmoid_ramp(0)(0) == 1


# --- what is asked


@pytest.mark.parametrize("masks", ["cutmix", "classmix", "complexmix"])
def test_images_targets_and_padding_are_mixed_by_one_mask(masks: str) -> None:
    module = MeanTeacher(Tiny, masks=masks, **PLAIN).train()
    image, padding = images()
    padding[:, :4] = 255
    padding[1, :, :9] = 255
    task = module.task((image, padding))
    weak = module.teacher.normalized(image)
    for index in range(4):
        other = (index + 1) % 4
        mask = task.mask[index]
        assert mask.any() and not mask.all()
        assert torch.equal(task.image[index], torch.where(mask, weak[index], weak[other]))
        assert torch.equal(
            task.label[index] == 255, torch.where(mask, padding[index], padding[other]) == 255
        )
    teacher = module.teacher(image).softmax(1)
    probabilities = torch.where(task.mask[:, None], teacher, teacher.roll(-1, 0))
    assert torch.allclose(task.probabilities(0, 32), probabilities, atol=1e-6)
    assert torch.allclose(task.confidence, probabilities.amax(1), atol=1e-6)
    asked = task.label != 255
    assert torch.equal(task.label[asked], probabilities.argmax(1).to(torch.uint8)[asked])


def test_nothing_is_asked_where_the_image_is_erased() -> None:
    module = MeanTeacher(Tiny, masks="cutout", **PLAIN).train()
    image, padding = images()
    task = module.task((image, padding))
    assert (~task.mask).any() and torch.equal(task.label == 255, ~task.mask)
    assert (task.image[(~task.mask)[:, None].expand_as(task.image)] == 0).all()
    whole = MeanTeacher(Tiny, masks="none", **PLAIN).train().task((image, padding))
    assert whole.mask.all() and (whole.label != 255).all()


@pytest.mark.parametrize("network", [Tiny, Valid])
@pytest.mark.parametrize("consistency", ["mse", "cross_entropy"])
@pytest.mark.parametrize("confidence", ["share", "pixel", "none"])
def test_the_loss_is_the_plain_formula_over_full_size_logits(
    network: type[SegmentationModule],
    consistency: str,
    confidence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segmodels.semisup.mean_teacher.BLOCK", 1)  # blocks of 16 rows
    module = MeanTeacher(
        network,
        masks="cutmix",
        consistency=consistency,
        confidence=confidence,
        threshold=0.45,
        weight=3.0,
        **PLAIN,
    )
    nn.init.normal_(module.teacher.classifier.weight, std=2.0 if network is Tiny else 0.1)
    unlabeled = images()
    unlabeled[1][:, :5] = 255
    labeled, _ = batch()
    torch.manual_seed(1)
    found = module.train().losses((labeled, unlabeled))["consistency"]
    given = torch.autograd.grad(found, module.student.classifier.weight)[0]
    torch.manual_seed(1)
    task = module.task(unlabeled)
    margin = network.margin
    height, width = 32 - 2 * margin, 48 - 2 * margin

    def cut(pixels: Tensor) -> Tensor:
        return pixels[..., margin : margin + height, margin : margin + width]

    probabilities = cut(task.probabilities(0, 32))
    said = module.student.logits(task.image)
    logits = F.interpolate(said, (height, width), mode="bilinear", align_corners=False)
    label = cut(task.label)
    valid = label != 255
    sure = valid & (probabilities.amax(1) >= 0.45)
    assert 0.05 < sure.float().mean() < 0.95
    if consistency == "mse":
        each = (logits.softmax(1) - probabilities).square().sum(1)
    else:
        each = F.cross_entropy(logits, label.long(), ignore_index=255, reduction="none")
    weight = {
        "share": valid * (sure.sum() / valid.sum()),
        "pixel": sure.float(),
        "none": valid.float(),
    }[confidence]
    slow = 3 * (each * weight).mean()
    assert found.item() == pytest.approx(slow.item(), rel=1e-5)
    assert torch.allclose(
        given, torch.autograd.grad(slow, module.student.classifier.weight)[0], atol=1e-6
    )


@pytest.mark.parametrize("masks", ["none", "cutout", "cutmix", "classmix", "complexmix"])
def test_nothing_is_asked_in_the_margin_of_which_there_are_no_logits(masks: str) -> None:
    module = MeanTeacher(Valid, masks=masks, threshold=0.0, **PLAIN).train()
    image, padding = images()
    task = module.task((image, padding))
    assert task.image.shape[-2:] == task.label.shape[1:] == (32, 48)
    inner = task.label[:, 4:-4, 4:-4]
    outer = task.label.clone()
    outer[:, 4:-4, 4:-4] = 255
    assert (outer == 255).all() and (inner != 255).any()
    assert module.losses((batch()[0], (image, padding)))["consistency"] > 0
    shown = module.eval().preview((image, padding))
    assert {each.shape[-2:] for each in shown.values()} == {(32, 48)}


@pytest.mark.parametrize("masks", ["none", "cutout", "cutmix", "classmix", "complexmix"])
def test_padded_pixels_never_count(masks: str) -> None:
    """Whatever the teacher says of padding, the loss is the same."""
    unlabeled = images()
    unlabeled[1][:, :, 20:] = 255
    labeled, _ = batch()
    module = MeanTeacher(Tiny, masks=masks, threshold=0.0, confidence="pixel", **PLAIN).train()
    task = module.task(unlabeled)
    asked = module.distance(task, task.label != 255)
    task.label[task.label != 255] = 255
    assert asked > 0 and module.distance(task, task.label != 255) == 0
    all_padding = unlabeled[0], torch.full_like(unlabeled[1], 255)
    terms = module.losses((labeled, all_padding))
    assert terms["consistency"] == 0 and torch.isfinite(sum(terms.values()))


# --- the teacher


def test_the_teacher_is_the_running_average_and_learns_nothing_else() -> None:
    torch.manual_seed(0)
    module = MeanTeacher(Tiny, decay=0.9, threshold=0.0).train()
    student = module.student
    optimizer = torch.optim.SGD(module.student.parameters(), lr=0.5)
    states = [{name: tensor.clone() for name, tensor in module.teacher.state_dict().items()}]
    students = []
    for _ in range(4):
        sum(module.losses(batch()).values()).backward()
        assert all(parameter.grad is None for parameter in module.teacher.parameters())
        optimizer.step()
        optimizer.zero_grad()
        module.after_step()
        students.append({name: tensor.clone() for name, tensor in student.state_dict().items()})
        states.append(
            {name: tensor.clone() for name, tensor in module.teacher.state_dict().items()}
        )
    assert module.steps == 4 and student.stepped == 4
    for step, decay in enumerate((0.0, 0.5, 2 / 3, 0.75)):
        for name, tensor in states[step + 1].items():
            wanted = (
                decay * states[step][name] + (1 - decay) * students[step][name]
                if tensor.is_floating_point()
                else students[step][name]
            )
            assert torch.allclose(tensor.double(), wanted.double(), atol=1e-6), name
    assert not torch.equal(states[1]["classifier.weight"], states[4]["classifier.weight"])


def test_only_the_student_is_optimized_and_only_the_teacher_is_used() -> None:
    module = MeanTeacher(Tiny).train()
    own = {
        id(each)
        for group in module.configure_optimizers()["optimizer"].param_groups
        for each in group["params"]
    }
    assert own == {id(each) for each in module.student.parameters()}
    assert not module.teacher.training and module.student.training
    with torch.no_grad():
        module.teacher.classifier.bias.add_(torch.tensor([9.0, 0.0, 0.0]))
    image, _ = images()
    assert torch.equal(module(image), module.teacher(image)) and torch.equal(
        module.label_map(image), module.teacher.label_map(image)
    )
    assert (
        module.label_map(image).float().mean()
        < module.student.eval().label_map(image).float().mean()
    )


@pytest.mark.parametrize("rule", ["all", "labeled", "frozen"])
def test_batch_norm_follows_the_images_that_the_rule_names(rule: str) -> None:
    module = MeanTeacher(Tiny, batch_norm=rule, **PLAIN).train()
    norm = module.student.body[1]
    labeled, unlabeled = batch()
    before = norm.running_mean.clone()
    module.losses((labeled, unlabeled))
    moved = norm.running_mean - before
    norm.running_mean.copy_(before)
    module.student.losses(labeled)
    by_labeled = norm.running_mean - before
    assert norm.momentum == 0.1
    if rule == "frozen":
        assert not moved.any()
    else:
        assert torch.allclose(moved, by_labeled, atol=1e-7) == (rule == "labeled") and moved.any()


def test_a_trainer_keeps_the_teacher_in_eval_mode_and_frozen_norms_too() -> None:
    """Lightning leaves the modes of layers as it finds them."""
    modes = []

    class Watched(MeanTeacher):
        def after_step(self) -> None:
            super().after_step()
            modes.append((self.training, self.teacher.training, self.student.body[1].training))

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=1, accelerator="cpu", enable_checkpointing=False, **quiet)
    module = Watched(Tiny, batch_norm="frozen")
    pairs = DataLoader([batch(count=2)], batch_size=None)
    trainer.fit(module, pairs, DataLoader([batch()[0]], batch_size=None))
    assert modes == [(True, False, False)]


def test_bases_outside_the_gradient_are_kept_inside_a_method_too() -> None:
    emanet = partial(segmodels.experiment("emanet").build, num_classes=3)
    module = MeanTeacher(emanet, threshold=0.0).train()
    bases = module.student.unit.bases.clone()
    module.losses(batch(count=2))
    assert module.student.unit.images == 4  # labeled and unlabeled ones
    module.after_step()
    assert module.student.unit.images == 0 and not torch.equal(module.student.unit.bases, bases)
    assert torch.equal(
        module.teacher.unit.bases, module.student.unit.bases
    )  # the first step of a true average


def test_wrong_options_and_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"semi\.decay=1\.5; it must be from 0 to 1"):
        MeanTeacher(Tiny, decay=1.5)
    with pytest.raises(TypeError, match="strong color is defined on uint8"):
        MeanTeacher(Tiny).train().losses((batch()[0], (torch.rand(2, 3, 32, 48), images(2)[1])))
    with pytest.raises(ValueError, match="did you mean mean_teacher"):
        method("mean_teachr")
    assert "mean_teacher" in names()


# --- the two streams of images


def two_streams(**settings: object) -> SegmentationData:
    given = {
        "crop": (8, 8),
        "scales": (0.5, 1.5),
        "continuous": True,
        "batch": 4,
        "iterations": 6,
        "labeled": "3/7",
        "semi": True,
    }
    return as_rank(Noise(**given | settings), 0, 1)


def drawn(data: SegmentationData) -> list[tuple[Tensor, Tensor]]:
    return list(data.train_dataloader())


def same(one: tuple, other: tuple) -> bool:
    return all(torch.equal(a, b) for left, right in zip(one, other) for a, b in zip(left, right))


@pytest.mark.parametrize("workers", [0, 2])
def test_both_streams_go_on_exactly_where_they_stopped(workers: int) -> None:
    whole = drawn(two_streams(unlabeled=6))
    assert len(whole) == 6 and [len(stream[0]) for stream in whole[0]] == [4, 6]
    later = two_streams(unlabeled=6, workers=workers)
    later.load_state_dict({"consumed": 8})
    rest = drawn(later)
    assert len(rest) == 4 and all(same(one, other) for one, other in zip(rest, whole[2:]))
    assert not same(whole[0], whole[1])


def test_ranks_share_both_streams() -> None:
    alone = drawn(two_streams(unlabeled=2, iterations=2))
    ranks = [as_rank(Noise(crop=(8, 8), scales=(0.5, 1.5), continuous=True, batch=4, unlabeled=2, iterations=2, labeled="3/7",
                           semi=True), rank, 2) for rank in range(2)]  # fmt: skip
    for together, *shares in zip(alone, *(drawn(each) for each in ranks)):
        for stream in range(2):
            mixed = torch.stack([share[stream][0] for share in shares], 1).flatten(0, 1)
            assert torch.equal(together[stream][0], mixed)
    with pytest.raises(DataError, match="unlabeled=3 cannot be shared by 2 ranks"):
        as_rank(Noise(batch=4, unlabeled=3, semi=True, labeled="3/7"), 0, 2).train_dataloader()


def test_labeled_and_unlabeled_images_are_different_ones_and_no_label_leaks() -> None:
    data = two_streams(crop=(40, 40), scales=(1.0,), flip=0.0)
    kept, others = set(data.part(True).names), set(data.part(False).names)
    assert len(kept) == 3 and len(others) == 4 and not kept & others
    for _, (_, padding) in drawn(data):
        assert set(padding.unique().tolist()) == {0, 255} and (padding == 0).sum() == 4 * 12 * 16
    assert data.share_of_labels() == {
        "images": 3,
        "of": 7,
        "fingerprint": data.share_of_labels()["fingerprint"],
    }


def test_every_image_is_unlabeled_too_where_every_image_is_labeled() -> None:
    data = two_streams(labeled=None)
    assert len(data.part(True)) == len(data.part(False)) == 7 and data.share_of_labels() is None
    labeled, unlabeled = drawn(data)[0]
    assert not torch.equal(labeled[0], unlabeled[0]) and UNLABELED > 2**31


# --- whole runs

SEMI = ["--semi", "mean_teacher", "data.labeled=1/2", "semi.threshold=0.1"]
SMALL = [
    "--data",
    "streets",
    *SCENES,
    *STEPS,
    *INTERVALS,
    *CPU,
    "recipe.batch=2",
    "data.unlabeled=2",
]


def run_semi(folder: Path, row: str, *words: str) -> int:
    return run.main(["--model", row, *SMALL, *SEMI, "--runs", str(folder), *words])


@pytest.fixture(scope="module")
def semi_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("semi")
    assert run_semi(folder, "bisenet/xception39", "data.unlabeled=4") == 0
    return only(folder)


def test_a_run_judges_both_networks_and_says_what_it_was(semi_run: Path) -> None:
    result = json.loads((semi_run / "result.json").read_text())
    assert "-mean_teacher-" in semi_run.name
    assert (
        result["semi"]["method"] == "mean_teacher"
        and result["semi"]["masks"] == "cutmix"
        and result["network"] == "teacher"
    )
    assert set(result["others"]) == {"student"} and set(result["others"]["student"]) >= {
        "miou",
        "pixel_accuracy",
        "iou",
    }
    assert result["labeled"]["images"] == 4 and result["labeled"]["of"] == 8
    assert (
        result["overrides"]["semi"] == "mean_teacher"
        and result["overrides"]["data.labeled"] == "1/2"
    )
    assert result["departures"][:2] == [
        "data.labeled all -> 1/2 (command line)",
        "semi none -> mean_teacher (command line)",
    ]
    plain = segmodels.experiment("bisenet/xception39").build()
    assert result["parameters"] == sum(each.numel() for each in plain.parameters())
    head = (semi_run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/consistency", "train/sure", "val/mIoU", "val/student_mIoU"} <= set(head)


def test_a_sheet_shows_what_the_student_is_asked(semi_run: Path) -> None:
    from PIL import Image

    with Image.open(semi_run / "pictures" / "semi.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert sheet.size[0] == 5 * 326 - 6
    # the first row of pictures, 160 pixels high; the legend is at the bottom
    columns = [pixels[60:200, 326 * index + 5 : 326 * index + 315] for index in range(5)]
    assert set(np.unique(columns[1])) == {0, 255}  # a mask
    assert all(np.ptp(column) > 30 for column in columns[:4])


def test_the_checkpoint_holds_both_and_gives_the_teacher(semi_run: Path, tmp_path: Path) -> None:
    file = semi_run / "checkpoints" / "last.ckpt"
    teacher, student = from_checkpoint(file), from_checkpoint(file, "student")
    result = json.loads((semi_run / "result.json").read_text())
    assert (
        type(teacher) is type(student)
        and teacher.identity.network == "teacher"
        and student.identity.network == "student"
    )
    assert not torch.equal(teacher.classifier[1].weight, student.classifier[1].weight)
    for network, wanted in ((None, result), ("student", result["others"]["student"])):
        out = tmp_path / f"{network}.json"
        words = ["--network", network] if network else []
        assert evaluate.main([str(file), "--out", str(out), *words]) == 0
        found = json.loads(out.read_text())
        assert (
            found["miou"] == wanted["miou"]
            and found["iou"] == wanted["iou"]
            and found["network"] == (network or "teacher")
        )
    with pytest.raises(ValueError, match="holds no pupil; it holds teacher and student"):
        from_checkpoint(file, "pupil")


def test_another_run_can_start_from_the_teacher(
    semi_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = semi_run / "checkpoints" / "last.ckpt"
    assert (
        run.main(
            [
                "--model",
                "bisenet/xception39",
                *SMALL[:-1],
                "--runs",
                str(tmp_path),
                "--init",
                str(file),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert re.search(r"starts from (\d+) of \1 tensors", said)


def die_of_kind(folder: Path, kind: str) -> int:
    after(checkpoints.Checkpoints, "on_step", lambda self: die() if self.step == 5 else None)
    return run_semi(folder, "bisenet/xception39", *KINDS[kind])


KINDS = {
    "plain": [],
    "two workers": ["data.workers=2"],
    "accumulation": ["trainer.accumulate=2", "recipe.batch=4", "data.unlabeled=4"],
}
DYING = {kind: lambda folder, kind=kind: die_of_kind(folder, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brought_up(
        "tests.segmodels.semisup.test_mean_teacher.DYING", tmp_path_factory.mktemp("dying")
    )


def assert_goes_on(child: Path, whole: Path, step: int) -> None:
    folder = only(child / "runs")
    assert status(child) == -signal.SIGKILL and not (folder / "result.json").exists()
    assert content(folder / "checkpoints" / "last.ckpt")["global_step"] == step
    assert run.main(["--resume", str(folder)]) == 0
    assert_same_state(folder / "checkpoints" / "last.ckpt", whole / "checkpoints" / "last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    kind: str, killed: Path, tmp_path: Path
) -> None:
    assert run_semi(tmp_path, "bisenet/xception39", *KINDS[kind]) == 0
    assert_goes_on(killed / kind, only(tmp_path), step=4)


def test_the_baseline_sees_the_same_labeled_images_and_no_other(
    tmp_path: Path, semi_run: Path
) -> None:
    words = [*SMALL[:-1], "--semi", "none", "data.labeled=1/2", "--runs", str(tmp_path)]
    assert run.main(["--model", "bisenet/xception39", *words]) == 0
    result = json.loads((only(tmp_path) / "result.json").read_text())
    assert result["semi"] is None and result["others"] == {}
    assert result["labeled"] == json.loads((semi_run / "result.json").read_text())["labeled"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["semi.mask=cutmix"], "did you mean semi.masks"),
        (["semi.masks=cutmax"], "did you mean semi.masks=cutmix"),
        (["semi.decay=2"], "semi.decay=2.0; it must be from 0 to 1"),
        (["data.unlabeled=1"], "cutmix mixes images in pairs"),
        (["data.labeled=1/0.5"], "is no file and no part"),
        (["--semi", "mean_techer"], "did you mean mean_teacher"),
        (["--semi", "none"], "there are no semi options here; name a method"),
        (["--semi", "none", "data.unlabeled=4"], "there are no semi options here"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    words: list[str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_semi(tmp_path / "runs", "bisenet/xception39", *words) == 2
    assert_one_sentence(capsys.readouterr().err, answer)
    assert not (tmp_path / "runs").exists()


def test_unlabeled_images_without_a_method_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        run.main(
            ["--model", "bisenet/xception39", "data.unlabeled=4", "--runs", str(tmp_path / "runs")]
        )
        == 2
    )
    assert_one_sentence(
        capsys.readouterr().err, "data.unlabeled counts images for a semi-supervised method"
    )
