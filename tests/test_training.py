"""The base module's training: parameter groups, schedules, seeds, and state that a checkpoint must carry."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import segmodels
from segmodels.module import SegmentationModule
from segmodels.parts import schedules
from segmodels.recipe import Recipe
from segmodels.released import layouts
from tests.reference import fill

REFERENCE = Path(__file__).parent / "reference"
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


@pytest.mark.parametrize("name", LR)
def test_a_schedule_is_the_authors_at_every_step_they_list(name: str) -> None:
    case = LR[name]
    schedule = schedules.poly(case["T"] - case.get("warmup", 0), 0.9)
    schedule = schedules.warmed_up(
        schedule, case.get("warmup", 0), case.get("start", 0), "geometric"
    )
    for step, rate in case["lr"].items():
        assert case["base"] * schedule(int(step)) == pytest.approx(rate, rel=1e-9)


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
        losses.append(module.micro_batches[-1]["train/loss"].item())
        logged.append(module.trainer.callback_metrics["train/loss"].item())

    module.on_train_batch_end = seen
    trained(module, batches(6), accumulate_grad_batches=3)
    assert len(set(losses)) == 6
    assert [logged[2], logged[5]] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-6
    )


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


def test_every_parameter_is_in_one_group() -> None:
    module = tiny(head_lr=10.0, decay_norms=False)
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


def test_clipping_and_momentum_reach_the_optimizer() -> None:
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
    assert fill.self_check()
