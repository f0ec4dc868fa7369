"""Tests of every semi-supervised method: its networks are drawn anew, and one is evaluated."""

import copy
import inspect
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.command_line.resolved_values import resolve
from experiments.drawing import label_images
from experiments.training import build
from segmodels import semisup
from segmodels.module import SegmentationModule
from segmodels.network_identity import Identity
from segmodels.recipe import Recipe
from segmodels.semisup_method import Method
from tests.support.networks import Tiny, Valid, images


class Pair(Method):
    networks = ("used", "other")
    evaluated_beside = ("other",)

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        labeled, _ = batch
        return self.used.losses(labeled)


def test_a_method_computes_what_its_first_network_computes() -> None:
    module = Pair(Valid(), Tiny()).eval()
    image, _ = images()
    assert module.evaluated is module.used and module.margin == 4
    assert module.valid_side(31) == 31
    assert torch.equal(module(image), module.used(image))
    assert torch.equal(module.strips(image).full(), module.used.strips(image).full())
    assert torch.equal(module.label_map(image), module.used.label_map(image))
    assert not torch.equal(module(image), module.other(image))


DEFAULTS = {
    # train_seg_semisup_mask_mt.py of Britefury/cutmix-semisup-seg: mask_mode, cons_loss_fn (var is
    # the squared difference), cons_weight, rampup, teacher_alpha, conf_per_pixel, conf_thresh,
    # aug_colour_brightness, aug_colour_greyscale_prob
    "mean_teacher": {
        "masks": "cutmix",
        "consistency": "mse",
        "weight": 1.0,
        "ramp_up": 0,
        "decay": 0.99,
        "confidence": "share",
        "threshold": 0.97,
        "color": 0.4,
        "gray": 0.2,
        "blur": 0.5,  # trainSSL.py of WilhelmT/ClassMix
        "batch_norm": "all",  # ours: Departures say what the authors do
        "grid": 4,  # ours, as Departures say
    },
    # exp.voc/voc8.res50v3+.CPS/config.py of charlesCXK/TorchSemiSeg
    "cps": {"weight": 1.5, "cutmix": False},
    # LiheYoung/UniMatch: conf_thresh of configs/pascal.yaml, dataset/semi.py, Dropout2d of
    # model/semseg/deeplabv3plus.py
    "unimatch": {
        "threshold": 0.95,
        "streams": 2,
        "dropped": 0.5,
        "color": 0.5,
        "hue": 0.25,
        "gray": 0.2,
        "blur": 0.5,
        "cutmix": 0.5,
    },
    # hfslyc/AdvSemiSeg: the command in README.md, LAMBDA_SEMI_ADV and LEARNING_RATE_D of train.py
    "advsemiseg": {
        "labeled": 0.01,
        "unlabeled": 0.001,
        "semi": 0.1,
        "threshold": 0.2,
        "start": 5000,
        "discriminator_lr": 1e-4,
    },
}


@pytest.mark.parametrize("name", semisup.names())
def test_a_methods_defaults_are_its_authors(name: str) -> None:
    options = inspect.signature(semisup.method(name)).parameters
    found = {key: each.default for key, each in options.items() if each.kind == each.KEYWORD_ONLY}
    assert found == DEFAULTS[name]


def test_every_network_learns_by_its_own_groups_and_a_frozen_one_does_not() -> None:
    module = Pair(Tiny(), Tiny().requires_grad_(False))
    learned = {id(each) for group in module.parameter_groups() for each in group["params"]}
    assert learned == {id(each) for each in module.used.parameters()}
    module.other.requires_grad_(True)
    learned = {id(each) for group in module.parameter_groups() for each in group["params"]}
    assert learned == {id(each) for each in module.parameters()}
    module.after_step()
    assert module.used.stepped == module.other.stepped == 1


def test_maps_of_labeled_images_lose_the_margin_as_their_label_does() -> None:
    class Weighted(Valid):
        def criterion(self, outputs: dict, label: Tensor, **maps: Tensor) -> dict[str, Tensor]:
            assert maps["weights"].shape == label.shape == (4, 24, 40)
            return {"main": self.pixel_loss(outputs["main"], label, weights=maps["weights"])}

    module = Pair(Weighted(), Weighted())
    image, label = images()
    labeled = image, label, {"weights": torch.rand(4, 32, 48)}
    outputs = module.used.outputs(module.normalized(image))
    found = module.own_losses(module.used, outputs, labeled)
    assert torch.equal(found["main"], module.used.losses(labeled)["main"])


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_normalized_images_become_the_pixels_again_that_they_were(order: str) -> None:
    network = Tiny()
    normalization = type(network.normalization)(order=order)
    network.adopt(Recipe(), normalization, Identity())
    image, _ = images()
    module = Pair(network, Tiny())
    assert torch.equal(module.as_pixels(module.normalized(image)), image)


def test_a_sheet_draws_every_kind_of_column() -> None:
    image = torch.randint(256, (2, 20, 30, 3), dtype=torch.uint8).numpy()
    mask = torch.rand(2, 20, 30).numpy() > 0.5
    label = torch.randint(3, (2, 20, 30), dtype=torch.uint8).numpy()
    share = torch.rand(2, 20, 30).numpy()
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    columns = {"image": image, "mask": mask, "label": label, "share": share}
    sheet = label_images.preview_sheet(columns, "abc", palette, "title", width=30)
    legend = label_images.legend("abc", palette, 4 * 36 - 6)
    assert sheet.size == (4 * 36 - 6, 52 + 2 * 26 + legend.height)
    drawn = torch.from_numpy(np.array(sheet))[52:72]
    assert torch.equal(drawn[:, :30], torch.from_numpy(image[0]))
    assert set(drawn[:, 36:66].unique().tolist()) == {0, 255}
    colors = {tuple(color) for color in drawn[:, 72:102].flatten(0, 1).tolist()}
    assert colors == set(palette)
    gray = (255 * torch.from_numpy(share[0])).round()
    assert torch.equal(drawn[:, 108:138, 0].float(), gray)


# --- compiled


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


def assert_own_weights(one: SegmentationModule, other: SegmentationModule) -> None:
    """Of which one is set to zero here: it says zero, and the other what it has said before."""
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        before = other.logits(image)
        for parameter in one.parameters():
            parameter.zero_()
        assert not one.logits(image).any()
        assert not one.outputs(image)["main"].any()
        assert torch.equal(other.logits(image), before) and before.any()


@pytest.mark.slow
def test_a_compiled_teacher_computes_with_its_own_weights(quickly_compiled: None) -> None:
    words = ["data.labeled=1/2", "data.height=64", "data.width=96", "trainer.compile=true"]
    words += ["data.train=4", "data.val=1", "recipe.crop=64x96", "recipe.batch=2"]
    resolved = resolve("bisenet/xception39", "streets", words, semi="mean_teacher")
    data = build.open_data(resolved, seed=0)
    module, start = build.build(resolved, data, 0, new=True)
    assert start.startswith("scratch")
    module.eval()
    for name in ("features", "decode"):
        assert name in vars(module.teacher) and name in vars(module.student)
    assert_own_weights(module.teacher, module.student)


def test_a_copy_of_a_compiled_network_computes_with_its_own_weights(quickly_compiled: None) -> None:
    network = Tiny().eval()
    image = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        plain = network.logits(image)
        build.compile_parts(network)
        assert torch.equal(network.logits(image), plain)
    assert_own_weights(copy.deepcopy(network), network)
