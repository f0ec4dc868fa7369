"""Tests of several optimizers that step as one, in Lightning and against two stepped by hand."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segmodels.module import SegmentationModule
from segmodels.parts.joint_optimizer import JointOptimizer
from segmodels.recipe import Recipe

LR, HEAD_LR, STEPS = 0.1, 0.01, 6


def optimizers_of(module: nn.Module) -> tuple[SGD, Adam]:
    """SGD of the body, whose norm is not decayed; Adam of the classifier."""
    convolution, norm = module.body
    groups = [
        {"params": list(convolution.parameters()), "weight_decay": 1e-2},
        {"params": list(norm.parameters()), "lr": 2 * LR},
    ]
    sgd = SGD(groups, lr=LR, momentum=0.9)
    return sgd, Adam(module.classifier.parameters(), lr=HEAD_LR, betas=(0.9, 0.99))


def poly(step: int) -> float:
    return (1 - step / STEPS) ** 0.9


def halved(step: int) -> float:
    return 0.5**step


class Two(SegmentationModule):
    """A network whose classifier has an optimizer and a schedule of its own."""

    channels_last = False  # steps by hand are taken so

    def __init__(self, by_group: bool = True) -> None:
        super().__init__(num_classes=3)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.classifier = nn.Conv2d(8, 3, 1)
        self.recipe = Recipe(lr=LR, iterations=STEPS)
        self.by_group = by_group
        self.rates: list[list[float]] = []

    def features(self, image: Tensor) -> Tensor:
        return self.body(image).relu()

    def optimizer(self) -> Optimizer:
        return JointOptimizer(*optimizers_of(self))

    def schedule(self) -> Any:
        return [poly, poly, halved] if self.by_group else poly

    def after_step(self) -> None:
        self.rates.append([group["lr"] for group in self.optimizers().param_groups])


def made(by_group: bool = True) -> Two:
    torch.manual_seed(0)
    return Two(by_group)


def images(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        image = torch.randn(2, 3, 16, 16, generator=generator)
        found.append((image, torch.randint(3, (2, 16, 16), generator=generator)))
    return found


def trained(
    module: Two, count: int, *callbacks: Callback, resumed: Path | None = None, **options: Any
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **options,
    )
    data = Feed(images(count))
    trainer.fit(module, data, data, ckpt_path=resumed, weights_only=True)
    return trainer


def by_hand(
    module: Two, passes: int, accumulate: int = 1, clip: float = 0.0, by_group: bool = True
) -> Two:
    """Two optimizers and two schedules in a plain loop."""
    sgd, adam = optimizers_of(module)
    schedules = [LambdaLR(sgd, poly), LambdaLR(adam, halved if by_group else poly)]
    module.train()
    for index, batch in enumerate(images(passes)):
        loss = sum(module.losses(batch).values()) / accumulate
        loss.backward()
        if (index + 1) % accumulate:
            continue
        if clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        for each in (sgd, adam, *schedules):
            each.step()
        sgd.zero_grad()
        adam.zero_grad()
    return module


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("by_group", [True, False])
def test_six_steps_equal_those_of_two_optimizers_by_hand_to_the_last_bit(by_group: bool) -> None:
    joint = made(by_group)
    trained(joint, STEPS)
    assert_same(joint, by_hand(made(), STEPS, by_group=by_group))
    with pytest.raises(AssertionError):
        assert_same(joint, made())


def test_a_step_of_all_parts_counts_once() -> None:
    module = made()
    trainer = trained(module, 10, max_steps=STEPS)
    assert trainer.global_step == STEPS
    assert len(module.rates) == STEPS


def test_each_group_follows_its_own_schedule() -> None:
    module = made()
    trained(module, STEPS)
    for step, rates in enumerate(module.rates):
        wanted = [LR * poly(step), 2 * LR * poly(step), HEAD_LR * halved(step)]
        assert rates == pytest.approx(wanted, rel=1e-12)


def test_the_rate_that_is_logged_is_the_recipes() -> None:
    module = made()
    trainer = trained(module, 4)
    assert trainer.callback_metrics["lr"].item() == pytest.approx(LR * poly(3), rel=1e-6)


def test_two_passes_make_one_step_of_all_parts() -> None:
    module = made()
    trainer = trained(module, 2 * STEPS, accumulate_grad_batches=2)
    assert trainer.global_step == STEPS
    assert_same(module, by_hand(made(), 2 * STEPS, accumulate=2))


class Norms(Callback):
    """The norm of each part's gradients as they are stepped."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_before_zero_grad(
        self, trainer: Trainer, module: Two, optimizer: Optimizer | None
    ) -> None:
        gradients = [each.grad for each in module.parameters() if each.grad is not None]
        if gradients:
            self.found.append(torch.cat([each.flatten() for each in gradients]).norm().item())


def test_clipping_takes_one_norm_over_all_parts() -> None:
    module, norms = made(), Norms()
    trained(module, STEPS, norms, gradient_clip_val=0.05)
    assert norms.found == pytest.approx([0.05] * len(norms.found), rel=1e-4)
    assert len(norms.found) >= STEPS - 1
    assert_same(module, by_hand(made(), STEPS, clip=0.05))


def test_bfloat16_trains_all_parts() -> None:
    module, start = made(), made()
    trained(module, STEPS, precision="bf16-mixed")
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, start.get_parameter(name)), name


class Infinite(Callback):
    """One part's gradient overflows at a step."""

    def __init__(self, at: int, part: str) -> None:
        self.at = at
        self.part = part
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, module: Two, *unused: Any) -> None:
        state = {name: each.detach().clone() for name, each in module.named_parameters()}
        self.states.append(state)

    def on_after_backward(self, trainer: Trainer, module: Two) -> None:
        if trainer.global_step == self.at:
            module.get_parameter(self.part).grad.view(-1)[0] = torch.inf


@pytest.mark.parametrize("part", ["body.0.weight", "classifier.weight"])
def test_a_gradient_that_overflows_in_one_part_skips_the_step_of_all(part: str) -> None:
    module, watch = made(), Infinite(2, part)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    trained(module, STEPS, watch, plugins=[plugin])
    moved = []
    for before, after in zip(watch.states, watch.states[1:]):
        same = {name for name in before if torch.equal(before[name], after[name])}
        moved.append(not same)
        assert not same or same == set(before)
    assert moved == [True, True, False, True, True]
    assert scaler.get_scale() == 32.0
    assert all(torch.isfinite(each).all() for each in module.parameters())


class Feed:
    """A loader that knows where it stands."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches
        self.taken = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches[self.taken :]:
            self.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.taken = state_dict["taken"]


class Saved(Callback):
    def __init__(self, at: int, file: Path) -> None:
        self.at = at
        self.file = file

    def on_train_batch_end(self, trainer: Trainer, *unused: Any) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.file)


def test_a_run_saved_inside_an_epoch_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    whole = made()
    trained(whole, STEPS, Saved(4, tmp_path / "last.ckpt"))
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (state,) = stored["optimizer_states"]
    assert len(state["param_groups"]) == 3
    assert {tuple(sorted(each)) for each in state["state"].values()} == {
        ("momentum_buffer",),
        ("exp_avg", "exp_avg_sq", "step"),
    }
    resumed = Two()
    trainer = trained(resumed, STEPS, resumed=tmp_path / "last.ckpt")
    assert trainer.global_step == STEPS
    assert len(resumed.rates) == STEPS - 4
    assert resumed.rates == whole.rates[4:]
    assert_same(resumed, whole)


def stepped(module: Two, optimizer: Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(module.losses(batch).values())
        loss.backward()
        return loss

    optimizer.step(closure)


def test_a_state_that_is_loaded_reaches_every_part() -> None:
    one, other = made(), made()
    first, second = one.optimizer(), other.optimizer()
    for batch in images(3):
        stepped(one, first, batch)
    other.load_state_dict(one.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for group in (*first.param_groups, *second.param_groups):
        group["lr"] *= 0.5
    for batch in images(6)[3:]:
        stepped(one, first, batch)
        stepped(other, second, batch)
    assert_same(one, other)


def test_what_no_part_would_step_is_refused() -> None:
    module = made()
    optimizer = module.optimizer()
    with pytest.raises(TypeError, match="add it to a part"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0})
    with pytest.raises(ValueError, match="more than one parameter group"):
        JointOptimizer(SGD(module.parameters(), lr=1.0), Adam(module.classifier.parameters()))
