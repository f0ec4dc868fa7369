"""Tests of the base module's training: parameter groups, schedules, seeds, stored state."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

import segmodels
from datamodules import CamVid, Cells, Folder, Streets
from experiments.results.reference import weights_from_names
from segmodels.module import SegmentationModule
from segmodels.parts import schedules
from segmodels.recipe import Recipe
from segmodels.released_checkpoints import layouts
from tests.support.paths import REFERENCE

LR = json.loads((REFERENCE / "schedules.json").read_text())


class Tiny(SegmentationModule):
    """A convolution and dropout: enough to train, and to see whether randomness is repeated."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.classifier = nn.Conv2d(8, num_classes, 1)
        self.stepped = 0

    def encoder(self) -> nn.Module:
        return self.body

    def features(self, image: Tensor) -> Tensor:
        return self.body(image)

    def after_step(self) -> None:
        self.stepped += 1


def tiny(**recipe: object) -> Tiny:
    module = Tiny()
    module.recipe = Recipe(**recipe)
    return module


def batches(count: int) -> DataLoader:
    made = [
        (
            torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8),
            torch.randint(3, (2, 16, 16), dtype=torch.uint8),
        )
        for _ in range(count)
    ]
    return DataLoader(made, batch_size=None)


def trained(module: SegmentationModule, data: DataLoader, **options: object) -> SegmentationModule:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **quiet, **options).fit(
        module, data, data
    )
    return module


SCHEDULED = {
    "torchseg bisenet R18 (80 x 1000)": ("bisenet/resnet18_speed", "bisenet/resnet18_accuracy"),
    "torchseg bisenet X39 (140 x 1000)": (
        "bisenet/xception39_speed",
        "bisenet/xception39_accuracy",
    ),
    "semseg PSPNet/PSANet (200 epochs of 185)": ("pspnet/resnet50", "pspnet/resnet101"),
}  # CoinCheung's is in test_bisenetv2.py


@pytest.mark.parametrize("name", SCHEDULED)
def test_the_rate_of_a_row_is_the_authors_at_every_step_they_list(name: str) -> None:
    for row in SCHEDULED[name]:
        module = Tiny()
        module.recipe = segmodels.experiment(row).recipe
        schedule = module.schedule()
        assert module.recipe.iterations == LR[name]["T"]
        for step, rate in LR[name]["lr"].items():
            assert module.recipe.lr * schedule(int(step)) == pytest.approx(rate, rel=1e-9)


MMSEG = ["fcn/resnet50", "smp/unet_resnet34", "nonlocalnet/resnet50", "unet/padded"]


@pytest.mark.parametrize("row", MMSEG)
def test_the_least_rate_is_where_poly_ends_and_no_clamp(row: str) -> None:
    """mmcv's PolyLrUpdaterHook, by which mmsegmentation trains: (lr - min) * (1 - k / T) ^ power + min."""
    module = Tiny()
    module.recipe = segmodels.experiment(row).recipe
    schedule, steps = module.schedule(), {"unet/padded": 160_000}.get(row, 40_000)
    for share in (0, 0.25, 0.5, 0.9, 0.99, 1):
        theirs = (0.01 - 1e-4) * (1 - share) ** 0.9 + 1e-4
        assert module.recipe.lr * schedule(round(share * steps)) == pytest.approx(theirs)


def test_cosine_goes_from_one_to_its_floor() -> None:
    schedule = schedules.cosine(10, floor=0.1)
    assert [schedule(k) for k in (0, 5, 10, 11)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_the_rate_moves_with_optimizer_steps_not_with_micro_batches() -> None:
    module = trained(tiny(iterations=4, lr=0.1), batches(8), accumulate_grad_batches=2, max_steps=4)
    assert module.lr_schedulers().get_last_lr()[0] == pytest.approx(0)  # after four steps of four
    assert module.stepped == 4


def test_state_outside_the_gradient_moves_once_per_optimizer_step() -> None:
    assert trained(tiny(iterations=3), batches(6), accumulate_grad_batches=2).stepped == 3


def test_what_is_logged_of_a_step_is_the_mean_over_its_micro_batches() -> None:
    module, logged, losses = tiny(iterations=2), [], []

    def seen(*unused: object) -> None:
        losses.append(module.micro_batches[-1]["loss"].item())
        logged.append(module.trainer.callback_metrics["train/loss"].item())

    module.on_train_batch_end = seen
    trained(module, batches(6), accumulate_grad_batches=3)
    assert len(set(losses)) == 6
    assert [logged[2], logged[5]] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-6
    )


# --- a batch in parts


class Averages(nn.BatchNorm2d):
    """Normalizes as in evaluation, so that an image's outputs do not depend on others."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Parts(SegmentationModule):
    """Logits at half of the size and an auxiliary output."""

    auxiliary_weight = 0.4

    def __init__(self, **recipe: object) -> None:
        super().__init__(num_classes=3)
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), Averages(8))
        self.classifier, self.auxiliary = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 1)
        self.recipe = Recipe(iterations=1, lr=0.1, **recipe)
        self.found: dict[str, Tensor] = {}

    def features(self, image: Tensor) -> Tensor:
        return self.body(image)

    def auxiliary_outputs(self, features: Tensor) -> dict[str, Tensor]:
        return {"auxiliary": self.auxiliary(features)}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.found = {name: each.grad.clone() for name, each in self.named_parameters()}


class WithOwnTerm(Parts):
    """A term that is no mean over valid pixels."""

    def criterion(self, outputs: dict[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        return super().criterion(outputs, label) | {"size": outputs["main"].square().mean()}


def unequal(empty_at: int = -1) -> list[tuple[Tensor, Tensor]]:
    """Three parts of two images, of which no, a quarter and seven eighths of the pixels are ignored."""
    random = torch.Generator().manual_seed(5)
    made = []
    for number, rows in enumerate((0, 4, 14)):
        label = torch.randint(3, (2, 16, 16), dtype=torch.uint8, generator=random)
        label[:, : 16 if number == empty_at else rows] = 255
        made.append((torch.randn(2, 3, 16, 16, generator=random), label))
    return made


def in_parts(module: Parts, parts: list[tuple[Tensor, Tensor]], **options: object) -> Parts:
    data = DataLoader(parts, batch_size=None)
    return trained(module, data, accumulate_grad_batches=len(parts), max_steps=1, **options)


def at_once(
    module: Parts, parts: list[tuple[Tensor, Tensor]]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Terms and gradients of the whole batch, by torch's own cross-entropy."""
    image, label = (torch.cat(each) for each in zip(*parts))
    weights = torch.tensor(module.recipe.class_weights) if module.recipe.class_weights else None
    terms = {}
    for name, logits in module.outputs(image).items():
        full = F.interpolate(logits, label.shape[1:], mode="bilinear")
        loss = F.cross_entropy(full, label.long(), weights, ignore_index=255)
        terms[name] = (1.0 if name == "main" else 0.4) * loss
    sum(terms.values()).backward()
    found = {name: each.grad.clone() for name, each in module.named_parameters()}
    module.zero_grad()
    return {name: each.item() for name, each in terms.items()}, found


@pytest.mark.parametrize("class_weights", [(), (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("empty_at", [-1, 0, 2])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(
    empty_at: int, class_weights: tuple[float, ...]
) -> None:
    parts = unequal(empty_at)
    terms, gradients = at_once(Parts(class_weights=class_weights), parts)
    module = in_parts(Parts(class_weights=class_weights), parts)
    for name, gradient in gradients.items():
        torch.testing.assert_close(module.found[name], gradient, rtol=0, atol=1e-6)
    logged = module.trainer.callback_metrics
    for name, term in terms.items():
        assert logged[f"train/{name}"].item() == pytest.approx(term, abs=1e-6)
    assert logged["train/loss"].item() == pytest.approx(sum(terms.values()), abs=1e-6)


def test_these_parts_are_told_from_a_mean_of_their_means() -> None:
    parts = unequal()
    _, gradients = at_once(Parts(), parts)
    means = [at_once(Parts(), [part])[1] for part in parts]
    name = "classifier.weight"
    mean = torch.stack([each[name] for each in means]).mean(0)
    assert (mean - gradients[name]).abs().max() > 1e-3


def test_a_batch_in_parts_is_clipped_as_the_whole_would_be() -> None:
    parts, norm = unequal(), 0.01
    _, gradients = at_once(Parts(), parts)
    whole = torch.cat([each.flatten() for each in gradients.values()]).norm()
    before = Parts()
    start = before.classifier.weight.detach().clone()
    after = in_parts(before, parts, gradient_clip_val=norm).classifier.weight
    step = 0.1 * (norm / whole * gradients["classifier.weight"] + 5e-4 * start)
    torch.testing.assert_close(start - after.detach(), step, rtol=0, atol=1e-6)


def test_parts_with_other_terms_or_with_a_mean_over_all_pixels_count_alike() -> None:
    parts = unequal()
    for make in (WithOwnTerm, lambda: Parts(loss="cross_entropy:all")):
        module = in_parts(make(), parts)
        by_hand = make()
        for part in parts:
            (sum(by_hand.losses(part).values()) / len(parts)).backward()
        for name, parameter in by_hand.named_parameters():
            torch.testing.assert_close(module.found[name], parameter.grad, rtol=1e-6, atol=1e-7)


def test_a_mean_over_all_pixels_in_parts_is_that_of_the_whole() -> None:
    parts = unequal()
    module = in_parts(Parts(loss="cross_entropy:all"), parts)
    image, label = (torch.cat(each) for each in zip(*parts))
    whole = Parts()
    for name, logits in whole.outputs(image).items():
        full = F.interpolate(logits, label.shape[1:], mode="bilinear")
        losses = F.cross_entropy(full, label.long(), ignore_index=255, reduction="none")
        ((1.0 if name == "main" else 0.4) * losses.mean()).backward(retain_graph=True)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(module.found[name], parameter.grad, rtol=0, atol=1e-6)


def test_sums_in_parts_add_up_to_that_of_the_whole() -> None:
    parts = unequal()
    module = in_parts(Parts(loss="cross_entropy:sum"), parts)
    image, label = (torch.cat(each) for each in zip(*parts))
    whole = Parts()
    total = 0.0
    for name, logits in whole.outputs(image).items():
        full = F.interpolate(logits, label.shape[1:], mode="bilinear")
        summed = F.cross_entropy(full, label.long(), ignore_index=255, reduction="sum")
        total = total + (1.0 if name == "main" else 0.4) * summed
    total.backward()
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(module.found[name], parameter.grad, rtol=1e-5, atol=1e-4)
    assert module.trainer.callback_metrics["train/loss"].item() == pytest.approx(total.item())


def test_devices_average_gradients_so_each_multiplies_its_sum_by_their_number() -> None:
    """Of a loss that is a mean, the mean over the devices stays what it is."""
    (part, *_) = unequal()
    for loss, factor in (("cross_entropy:sum", 2), ("cross_entropy", 1)):
        module = Parts(loss=loss)
        stub = SimpleNamespace(accumulate_grad_batches=1, world_size=2, global_rank=0)
        module.log = module.learning_rate = lambda *unused, **settings: None
        module._trainer = stub
        returned = module.training_step(part, 0)
        expected = sum(module.losses(part).values())
        torch.testing.assert_close(returned, factor * expected)


def test_a_strided_label_is_weighed_by_its_own_pixels() -> None:
    """BiSeNet's fast rows learn from every eighth pixel."""
    row = segmodels.experiment("bisenet/resnet18").but(model={"label_stride": 2})
    module = row.build(num_classes=3)
    module.means = []
    label = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    label[:, ::2, ::2] = 1
    outputs = {name: torch.zeros(1, 3, 4, 4) for name in ("main", "auxiliary1", "auxiliary2")}
    terms = module.criterion(outputs, label)
    assert module.pass_weight(len(terms)).item() == 16


# --- groups, schedules


def test_heads_learn_faster_and_norms_are_spared_where_the_recipe_says_so() -> None:
    module = tiny(lr=0.1, head_lr=10.0, weight_decay=0.5, decay_norms=False)
    facts = {
        id(p): (group["lr"], group["weight_decay"])
        for group in module.parameter_groups()
        for p in group["params"]
    }
    found = {name: facts[id(parameter)] for name, parameter in module.named_parameters()}
    assert found["body.0.weight"] == (0.1, 0.5)
    assert found["body.0.bias"] == found["body.1.weight"] == (0.1, 0.0)
    assert found["classifier.weight"] == (pytest.approx(1.0), 0.5)
    assert found["classifier.bias"] == (pytest.approx(1.0), 0.0)


def test_frozen_norms_keep_averages_and_weights_while_other_layers_learn() -> None:
    module = tiny(lr=0.1, head_lr=10.0)
    module.frozen_norms = True
    nn.init.uniform_(module.body[1].running_mean, -1, 1)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trained(module, batches(2))
    for name, tensor in module.state_dict().items():
        if name.startswith(("body.", "classifier.")):
            assert torch.equal(tensor, before[name]) == name.startswith("body.1."), name
    assert not module.train().body[1].training
    module.frozen_norms = False
    assert module.train().body[1].training


def test_a_trainer_does_not_warn_of_layers_in_eval_mode_and_sets_their_modes() -> None:
    """Warnings are errors here; Lightning has one of layers that are evaluated."""
    module = tiny().eval()
    module.frozen_norms = True
    modes = []
    module.after_step = lambda: modes.append([each.training for each in module.body])
    trained(module, batches(1))
    assert modes == [[True, False, True]]


def test_every_parameter_is_in_one_group() -> None:
    module = tiny(head_lr=10.0, decay_norms=False)
    for frozen in (False, True):
        module.frozen_norms = frozen
        grouped = [id(each) for group in module.parameter_groups() for each in group["params"]]
        assert sorted(grouped) == sorted(map(id, module.parameters()))


def test_bisenets_groups_are_those_of_the_authors_code() -> None:
    groups = json.loads(
        gzip.decompress((REFERENCE / "steps" / "bisenet_r18_groups.json.gz").read_bytes())
    )
    module = segmodels.experiment("bisenet/resnet18_accuracy").build()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    ours = {
        names[id(p)]: (round(group["lr"] / 0.01), group["weight_decay"])
        for group in module.parameter_groups()
        for p in group["params"]
    }
    renamed = layouts()["bisenet_r18_torchseg"].renamed
    theirs = {
        name: (g["lr_multiplier"], g["weight_decay"])
        for g in groups
        for name in renamed(dict.fromkeys(g["params"], torch.empty(0)))
    }
    assert ours == theirs


@pytest.mark.parametrize("row", ["xception39_speed", "xception39_accuracy"])
def test_beside_xception39_only_the_fusion_and_the_heads_learn_faster(row: str) -> None:
    """X39/train.py and X39.speed/train.py of TorchSeg: `base_lr * 10` for `heads` and `ffm`; `group_weight`
    decays the weights of convolutions and of nothing else."""
    layout = json.loads(
        gzip.decompress((REFERENCE / "released" / "bisenet_x39_torchseg.json.gz").read_bytes())
    )
    renamed = layouts()["bisenet_x39_torchseg"].renamed
    theirs = {}
    for name, shape, _ in layout["entries"]:
        if name.endswith(("weight", "bias")):
            (mine,) = renamed({name: torch.empty(0)})
            rate = 0.1 if name.startswith(("heads.", "ffm.")) else 0.01
            theirs[mine] = (rate, 5e-4 if len(shape) == 4 else 0.0)
    module = segmodels.experiment(f"bisenet/{row}").build(device="meta")
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    ours = {
        names[id(parameter)]: (pytest.approx(group["lr"]), group["weight_decay"])
        for group in module.parameter_groups()
        for parameter in group["params"]
    }
    assert theirs == ours


def test_dropout_depends_on_seed_and_step_alone() -> None:
    data = batches(3)
    start = {name: value.clone() for name, value in tiny().state_dict().items()}

    def weights(disturb: bool, seed: int = 0) -> Tensor:
        module = tiny(iterations=3, lr=0.1)
        module.load_state_dict(start)
        module.seed = seed
        torch.manual_seed(99 if disturb else 0)
        return trained(module, data).classifier.weight

    assert torch.equal(weights(False), weights(True))
    assert not torch.equal(weights(False), weights(False, seed=1))


def test_class_weights_of_another_count_are_refused() -> None:
    row = segmodels.experiment("bisenet").but(recipe={"class_weights": (1.0, 2.0)})
    with pytest.raises(ValueError, match="2 numbers for 3 classes"):
        row.build(num_classes=3)


def test_the_recipes_optimizer_and_momentum_are_used() -> None:
    module = tiny(optimizer="sgd", momentum=0.7, lr=0.2)
    assert module.configure_optimizers()["optimizer"].defaults["momentum"] == 0.7
    assert type(tiny(optimizer="adamw").configure_optimizers()["optimizer"]).__name__ == "AdamW"


def test_a_sanity_check_leaves_no_scores_and_no_logged_metric() -> None:
    module, data = tiny(iterations=1), batches(2)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, num_sanity_val_steps=1, limit_val_batches=2, **quiet
    )
    seen: list[dict] = []
    module.on_train_start = lambda: seen.append(dict(trainer.callback_metrics) | module.scores)
    trainer.fit(module, data, data)
    assert seen == [{}]
    assert module.scores["pixels"] == 2 * 2 * 16 * 16


def test_validation_counts_every_pixel_once_and_says_at_which_step() -> None:
    module, data = tiny(iterations=2), batches(2)
    data.dataset[0][1][0, :4] = 255
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **quiet).fit(
        module, data, data
    )
    assert module.scores["pixels"] == 2 * 2 * 16 * 16 - 4 * 16
    assert module.scores["step"] == 2


def test_fill_draws_the_numbers_that_the_references_were_made_with() -> None:
    weight = weights_from_names.fill("layer.conv.weight", (2, 3, 3, 3))
    scale = weights_from_names.fill("layer.bn.weight", (4,))
    image = weights_from_names.make_input("input/a", (1, 3, 128, 256))
    for array, known in (
        (
            weight,
            [-0.1561308056116104, 0.2587983310222626, 0.08280383795499802, 0.32913321256637573],
        ),
        (scale, [1.2443876266479492, 0.5454120635986328, 1.260493278503418, 1.3270585536956787]),
        (
            image,
            [-0.3774159252643585, -0.49596676230430603, -0.26237645745277405, 0.5282796025276184],
        ),
    ):
        np.testing.assert_allclose(array.ravel()[:4], known, rtol=1e-6, atol=0)


# --- averages of batch norm


def test_a_recipe_sets_the_share_of_a_batch_in_the_averages_or_leaves_the_networks_own() -> None:
    row = segmodels.experiment("deeplabv3/resnet50")
    assert momenta(row.build(5, "meta")) == {3e-4}
    assert momenta(row.but(recipe={"norm_momentum": 0.2}).build(5, "meta")) == {0.2}


@pytest.mark.parametrize("paper", segmodels.papers())
def test_averages_have_left_their_start_behind_when_a_budget_ends(paper: str) -> None:
    """Else a network is evaluated with the mean 0 and the variance 1 that it was made with."""
    main = segmodels.experiment(paper)
    for data in (Streets, Cells, Folder, CamVid):
        row = main.on(data)
        own = momenta(row.build(len(row.recipe.class_weights) or 5, "meta"))
        assert all((1 - momentum) ** row.recipe.iterations < 0.1 for momentum in own), data


def momenta(module: nn.Module) -> set[float]:
    return {layer.momentum for layer in module.modules() if isinstance(layer, _BatchNorm)}
