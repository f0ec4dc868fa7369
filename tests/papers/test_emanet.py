"""Tests of EMANet: its attention is expectation-maximization, and it trains like the authors' code.

Its bases move once per step.
"""

import copy
import gzip
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.architectures.emanet import (
    EXPERIMENTS,
    EMANet,
    EMAUnit,
    expectation,
    maximization,
    normalized,
    wishes,
)
from segmodels.module import SegmentationModule
from segmodels.paper import changed
from segmodels.recipe import Recipe
from segmodels.released_checkpoints import layouts
from tests.support import inputs_from_names
from tests.support.paths import REFERENCE

STEPS = {
    "emanet_r50": {"main": ("image0", "image1")},
    "mmseg_emanet_r50_d8": {"main": ("decode.loss_ce",), "auxiliary": ("aux.loss_ce",)},
}

# --- textbook EM


def cloud(points: int = 60, dimensions: int = 3, groups: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points around four centers, and four starting means elsewhere."""
    random = np.random.default_rng(1)
    centers = 2 * random.standard_normal((groups, dimensions))
    return centers[random.integers(groups, size=points)] + random.standard_normal(
        (points, dimensions)
    ), random.standard_normal(centers.shape)


def likelihood(x: np.ndarray, means: np.ndarray, variance: float) -> float:
    """Of a mixture of equal shares and covariance variance * I, up to a constant."""
    return sum(
        math.log(
            sum(math.exp(-((point - mean) ** 2).sum() / (2 * variance)) for mean in means)
            / len(means)
        )
        for point in x
    )


def textbook(x: np.ndarray, means: np.ndarray, variance: float) -> np.ndarray:
    """One step of EM for that mixture: each mean becomes the average of the points by their posterior probabilities."""
    weighted, mass = np.zeros_like(means), np.zeros(len(means))
    for point in x:
        density = np.array(
            [math.exp(-((point - mean) ** 2).sum() / (2 * variance)) for mean in means]
        )
        posterior = density / density.sum()
        mass += posterior
        weighted += posterior[:, None] * point
    return weighted / mass[:, None]


def ours(
    x: np.ndarray, means: np.ndarray, kernel: str, lambda_: float, normalization: str
) -> np.ndarray:
    """Without the 1e-6 that the network adds to what it divides by: the textbook has none."""
    points, bases = (torch.from_numpy(each.T)[None] for each in (x, means))  # (1, C, N), (1, C, K)
    means = maximization(points, expectation(points, bases, kernel, lambda_), epsilon=0.0)
    return normalized(means, normalization, epsilon=0.0)[0].numpy().T


@pytest.mark.parametrize("variance", [0.5, 1.0, 3.0])
def test_with_the_gaussian_kernel_it_is_em_for_a_gaussian_mixture_of_fixed_covariance(
    variance: float,
) -> None:
    x, means = cloud()
    reached = [likelihood(x, means, variance)]
    for _ in range(15):
        updated = ours(x, means, "gaussian", 1 / variance, "none")
        np.testing.assert_allclose(updated, textbook(x, means, variance), rtol=0, atol=1e-12)
        means = updated
        reached.append(likelihood(x, means, variance))
    assert all(after > before - 1e-10 for before, after in pairwise(reached))
    assert reached[-1] > reached[0] + 10


@pytest.mark.parametrize("lambda_", [0.5, 1.0, 2.0])
def test_with_unit_bases_every_iteration_raises_the_likelihood_that_the_e_step_assumes(
    lambda_: float,
) -> None:
    """The log of sum over k of exp(lambda x.mu[k]), with mu on the sphere: what the paper's own unit climbs."""
    x, means = cloud()
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    reached = []
    for _ in range(15):
        reached.append(np.log(np.exp(lambda_ * x @ means.T).sum(1)).sum())
        means = ours(x, means, "exponential", lambda_, "l2")
        np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, atol=1e-12)
    assert all(after > before - 1e-10 for before, after in pairwise(reached))
    assert reached[-1] > reached[0] + 1


def test_the_steps_are_the_papers_sums_over_pixels() -> None:
    x, bases = torch.randn(1, 3, 7, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    z = expectation(x, bases, lambda_=0.7)
    means = maximization(x, z)
    for n in range(7):
        weights = [math.exp(0.7 * float(x[0, :, n] @ bases[0, :, k])) for k in range(4)]
        assert z[0, n].tolist() == pytest.approx([weight / sum(weights) for weight in weights])
    for k in range(4):
        mean = sum(z[0, n, k] * x[0, :, n] for n in range(7)) / sum(z[0, n, k] for n in range(7))
        torch.testing.assert_close(means[0, :, k], mean, rtol=0, atol=1e-5)


def test_a_millionth_is_added_to_what_is_divided_by_as_in_the_authors_code() -> None:
    """network.py of XiaLiPKU/EMANet: z / (1e-6 + its sum), and _l2norm, x / (1e-6 + its norm)."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    assert maximization(3 * one, 1e-6 * one).item() == pytest.approx(1.5)
    assert normalized(1e-6 * one).item() == pytest.approx(0.5)
    assert expectation(1e-3 * one, 1e-3 * one, "inner").item() == pytest.approx(0.5)
    assert EMAUnit(2, 2).epsilon == 1e-6


def test_gaussian_and_exponential_kernels_agree_on_unit_bases_and_differ_on_others() -> None:
    x, bases = torch.randn(1, 8, 20), normalized(torch.randn(1, 8, 5))
    torch.testing.assert_close(
        expectation(x, bases, "gaussian"), expectation(x, bases, "exponential"), rtol=0, atol=1e-5
    )
    uneven = bases * torch.tensor([1.0, 2, 1, 1, 1])
    assert (
        expectation(x, uneven, "gaussian") - expectation(x, uneven, "exponential")
    ).abs().max() > 0.1


@pytest.mark.parametrize("kernel", ["exponential", "gaussian", "inner"])
def test_shares_of_a_pixel_are_positive_and_sum_to_one_where_a_base_answers_for_it(
    kernel: str,
) -> None:
    x, bases = torch.randn(2, 8, 20), torch.randn(2, 8, 5)
    z, products = expectation(x, bases, kernel), x.transpose(1, 2) @ bases
    assert z.min() >= 0
    answered = torch.ones(2, 20) if kernel != "inner" else (products > 0).any(2).float()
    torch.testing.assert_close(z.sum(2), answered, rtol=0, atol=1e-4)


# --- the unit, and how its bases are kept


def unit(**options: object) -> EMAUnit:
    torch.manual_seed(1)
    return EMAUnit(8, 4, **options).double()


def final_bases(module: EMAUnit, x: Tensor) -> Tensor:
    """(B, C, K) by loops over images and iterations, from the bases that are kept."""
    found = []
    for image in module.conv1(x).flatten(2):
        bases = module.bases[0]
        for _ in range(module.train_iterations):
            z = (image.T @ bases).softmax(1)
            bases = image @ (z / (z.sum(0) + 1e-6))
            bases = bases / (bases.norm(dim=0) + 1e-6)
        found.append(bases)
    return torch.stack(found).detach()


def test_bases_move_once_per_step_towards_the_mean_over_all_images_of_its_micro_batches() -> None:
    module, start = unit(), unit().bases.clone()
    batches = [
        torch.randn(2, 8, 5, 6, dtype=torch.float64),
        torch.randn(3, 8, 5, 6, dtype=torch.float64),
    ]
    expected = 0.9 * start[0] + 0.1 * torch.cat([final_bases(module, x) for x in batches]).mean(0)
    for x in batches:
        module(x)
        assert torch.equal(
            module.bases, start
        )  # every micro-batch of a step starts from the same bases
    module.keep()
    torch.testing.assert_close(module.bases[0], expected, rtol=0, atol=1e-12)
    module.keep()  # a step that saw nothing moves nothing
    torch.testing.assert_close(module.bases[0], expected, rtol=0, atol=1e-12)


def test_only_passes_that_train_move_the_bases() -> None:
    module, x = unit(), torch.randn(2, 8, 5, 6, dtype=torch.float64)
    start = module.bases.clone()
    module.eval()(x)
    with torch.no_grad():
        module.train()(x)
    module.keep()
    assert torch.equal(module.bases, start)


def test_a_step_that_overflowed_leaves_the_bases_as_they_were() -> None:
    module, x = unit(), torch.randn(2, 8, 5, 6, dtype=torch.float64)
    start = module.bases.clone()
    module(x.index_fill(1, torch.tensor([0]), torch.inf))
    module.keep()
    assert torch.equal(module.bases, start)
    module(x)
    module.keep()
    assert module.bases.isfinite().all() and not torch.equal(module.bases, start)


def passed(number: int) -> EMAUnit:
    """A unit that has seen two images of that rank's own."""
    module = unit()
    torch.manual_seed(10 + number)
    module(torch.randn(2, 8, 5, 6, dtype=torch.float64))
    return module


def mean_over_ranks() -> Tensor:
    module, seen = unit(), []
    for number in range(2):
        torch.manual_seed(10 + number)
        seen.append(final_bases(module, torch.randn(2, 8, 5, 6, dtype=torch.float64)))
    return 0.9 * module.bases[0] + 0.1 * torch.cat(seen).mean(0)


def test_ranks_share_the_mean_over_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = passed(0), passed(1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed,
        "all_reduce",
        lambda totals: totals.add_(torch.cat([two.seen.flatten(), totals.new_full((1,), 2)])),
    )
    one.keep()
    torch.testing.assert_close(one.bases[0], mean_over_ranks(), rtol=0, atol=1e-12)


def rank(number: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    module = passed(number)
    module.keep()
    torch.save(module.bases, f"{folder}/{number}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.catalogue  # two more processes that import everything
def test_processes_share_the_mean_over_their_images(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert torch.equal(one, two)
    torch.testing.assert_close(one[0], mean_over_ranks(), rtol=0, atol=1e-12)


def test_iterations_are_those_of_the_mode() -> None:
    x, options = (
        torch.randn(2, 8, 5, 6, dtype=torch.float64),
        {"train_iterations": 2, "eval_iterations": 5},
    )
    with torch.no_grad():
        for mode, other in ((True, "train_iterations"), (False, "eval_iterations")):
            same = unit(**{name: options[other] for name in options}).train(mode).attended(x)
            found = unit(**options).train(mode).attended(x)
            assert all(torch.equal(a, b) for a, b in zip(found, same))
    assert not torch.equal(
        unit(**options).train().attended(x)[1], unit(**options).eval().attended(x)[1]
    )


def test_fixed_bases_stay_and_trained_ones_follow_their_gradient() -> None:
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    fixed, trained = unit(maintenance="fixed"), unit(maintenance="backpropagation")
    start = fixed.bases.clone()
    for module in (fixed, trained):
        module(x).square().sum().backward()
        module.keep()
        assert torch.equal(module.bases, start)
    assert fixed.conv1.weight.grad is None and not fixed.bases.requires_grad
    assert trained.bases.grad.abs().max() > 0 and trained.conv1.weight.grad.abs().max() > 0


# --- the network in training


class Small(EMANet):
    """EMANet behind one convolution instead of a ResNet: everything but the backbone."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes, channels=16, bases=4)
        self.backbone = nn.ModuleList([nn.Conv2d(3, 2048, 3, 4, 1)])

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.backbone[0](image)]


def small() -> Small:
    torch.manual_seed(2)
    module = Small()
    module.recipe = Recipe(loss="cross_entropy:all", lr=0.01, iterations=4)
    return module


class Holder(SegmentationModule):
    """A method around a network, as semi-supervised ones are: it alone is known to the trainer."""

    def __init__(self, student: SegmentationModule) -> None:
        super().__init__(student.num_classes)
        self.recipe, self.student, self.teacher = (
            student.recipe,
            student,
            copy.deepcopy(student).requires_grad_(False),
        )

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        terms = self.student.losses(batch)
        with torch.no_grad():
            self.teacher.logits(self.normalized(batch[0]))
        return terms

    def parameter_groups(self) -> list[dict]:
        return self.student.parameter_groups()

    def after_step(self) -> None:
        self.student.after_step()


def batches(count: int, images: int = 2) -> DataLoader:
    random = torch.Generator().manual_seed(3)
    made = [
        (
            torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=random),
            torch.randint(3, (images, 32, 32), generator=random),
        )
        for _ in range(count)
    ]
    return DataLoader(made, batch_size=None)


def trainer(**options: object) -> Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **quiet,
        **options,
    )


def test_a_network_inside_another_module_keeps_its_bases_as_it_does_alone() -> None:
    alone, held = small(), small()
    start = alone.unit.bases.clone()
    trainer(accumulate_grad_batches=2).fit(alone, batches(4), batches(1))
    holder = Holder(held)
    trainer(accumulate_grad_batches=2).fit(holder, batches(4), batches(1))
    assert torch.equal(held.unit.bases, alone.unit.bases) and not torch.equal(
        held.unit.bases, start
    )
    assert torch.equal(holder.teacher.unit.bases, start)
    assert (
        not held.unit.conv1.weight.requires_grad
    )  # devices that train together would wait for its gradient


class Saved(Callback):
    """A checkpoint after two steps, and what the bases were."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Trainer, module: EMANet, *_: object) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.file)
            self.bases = module.unit.bases.clone()


@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended:UserWarning:lightning"
)
def test_bases_survive_checkpoint_and_resume_bit_for_bit(tmp_path: Path) -> None:
    data, whole, resumed, saved = batches(4), small(), small(), Saved(tmp_path / "half.ckpt")
    trainer(max_steps=4, callbacks=[saved]).fit(whole, data, data)
    assert torch.equal(
        torch.load(saved.file, weights_only=True)["state_dict"]["unit.bases"], saved.bases
    )
    rest = DataLoader(
        data.dataset[2:] + data.dataset[:2], batch_size=None
    )  # the trainer counts on, a plain loader starts anew
    resume = trainer(max_steps=4)
    resume.fit(resumed, rest, data, ckpt_path=saved.file)
    assert resume.global_step == 4
    assert torch.equal(resumed.unit.bases, whole.unit.bases)
    assert not torch.equal(resumed.unit.bases, saved.bases)


def test_a_parameter_without_gradient_asks_for_none_in_training_and_stays_as_it_was() -> None:
    module = small()
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    trainer().fit(module, batches(2), batches(1))
    same = [
        name
        for name, parameter in module.named_parameters()
        if torch.equal(parameter, before[name])
    ]
    assert sorted(same) == sorted(module.without_gradient)
    assert not any(module.get_parameter(name).requires_grad for name in module.without_gradient)


def test_attention_maps_share_each_pixel_out_among_the_bases() -> None:
    module = EMANet(3, channels=16, bases=4).eval()
    image = torch.randint(256, (2, 3, 65, 97), dtype=torch.uint8)
    with torch.no_grad():
        maps = module.attention_maps(image)
        x = module.reduction(module.backbone(module.normalized(image))[-1])
        _, z, _ = module.unit.attended(x)
    assert maps.shape == (2, 4, 9, 13)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 9, 13))
    assert maps[1, 2, 3, 4] == z[1, 3 * 13 + 4, 2]


# --- the notes' wishes for bases


def measured_by_loops(x: Tensor, z: Tensor, bases: Tensor) -> dict[str, float]:
    """Of one image: X (C, N), Z (N, K), bases (C, K)."""

    def cosine(a: Tensor, b: Tensor) -> float:
        lengths = a.norm() * b.norm()
        return float(a @ b / lengths) if lengths else 0.0  # no base answers for this pixel

    n, k = z.shape
    likeness = [cosine(x[:, i], sum(z[i, j] * bases[:, j] for j in range(k))) for i in range(n)]
    shares = [float(z[:, j].sum() / z.sum()) for j in range(k)]
    entropy = -sum(share * math.log(share) for share in shares if share)
    pairs = [cosine(bases[:, i], bases[:, j]) for i in range(k) for j in range(k) if i != j]
    return {
        "representative": sum(likeness) / n,
        "in_use": math.exp(entropy),
        "dissimilar": 1 - sum(pairs) / len(pairs),
    }


@pytest.mark.parametrize("kernel", ["exponential", "inner"])
def test_wishes_are_measured_as_their_words_say_and_averaged_over_images(kernel: str) -> None:
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    bases = torch.randn(2, 6, 3, dtype=torch.float64)
    z = expectation(x, bases, kernel)
    found = wishes(x, z, bases)
    expected = [measured_by_loops(*each) for each in zip(x, z, bases)]
    assert set(found) == set(expected[0])
    for name, value in found.items():
        mean = sum(each[name] for each in expected) / 2
        assert value.item() == pytest.approx(mean, rel=1e-9), name


def test_wishes_at_their_best_and_at_their_worst() -> None:
    bases = torch.eye(4)[None]  # unit vectors at right angles
    own = wishes(bases[..., [0, 1, 2, 3] * 3], torch.eye(4).repeat(3, 1)[None], bases)
    assert {name: value.item() for name, value in own.items()} == pytest.approx(
        {"representative": 1, "in_use": 4, "dissimilar": 1}
    )
    same = torch.ones(1, 4, 4)
    one = torch.zeros(1, 12, 4)
    one[..., 2] = 1
    worst = wishes(-same[..., [0] * 12], one, same)
    assert {name: value.item() for name, value in worst.items()} == pytest.approx(
        {"representative": -1, "in_use": 1, "dissimilar": 0}, abs=1e-6
    )
    assert wishes(same, torch.ones(1, 4, 1), same[..., :1])["dissimilar"] == 1  # of one base


def test_a_network_measures_the_wishes_of_its_own_bases() -> None:
    module = EMANet(3, channels=16, bases=4).eval()
    image = torch.randint(256, (2, 3, 65, 97), dtype=torch.uint8)
    with torch.no_grad():
        x = module.reduction(module.backbone(module.normalized(image))[-1])
        found = wishes(*module.unit.attended(x))
        assert module.wishes(image) == {name: value.item() for name, value in found.items()}
        seen = module.unit.conv1(x).flatten(2)
    assert torch.equal(module.unit.attended(x)[0], seen)


# --- rows


def test_the_table_of_iterations_is_eight_rows_and_36_ways_to_evaluate_them() -> None:
    """Evaluation has as many iterations as training, or more; three in training are best."""
    cells = {}
    for steps in range(1, 9):
        row = EXPERIMENTS[f"t{steps}"]
        own = {"train_iterations": steps, "eval_iterations": steps}
        assert row.model == EXPERIMENTS["resnet50"].model | own
        for figure in row.published:
            options = own | dict(figure.model)
            cells[steps, options["eval_iterations"]] = figure.miou
    assert sorted(cells) == [(i, j) for i in range(1, 9) for j in range(i, 9)]
    assert max(cells, key=cells.get) == (3, 7) and cells[3, 7] == 78.89
    assert [name for name in EXPERIMENTS if name.startswith("t")] == [f"t{n}" for n in range(1, 9)]


def test_a_figure_of_the_table_stands_beside_the_network_evaluated_so() -> None:
    """Other iterations at evaluation leave the weights as they are."""
    for figure in EXPERIMENTS["t7"].published:
        options = EXPERIMENTS["t7"].model | dict(figure.model)
        module = EMANet(3, **options | {"depth": 26, "channels": 16, "bases": 4})
        assert module.unit.train_iterations == 7
        assert module.unit.eval_iterations == options["eval_iterations"]
        assert changed(EMANet, EXPERIMENTS["t7"].model, options) == dict(figure.model)


def test_the_unit_in_the_common_network_keeps_its_bases_after_a_step() -> None:
    module = segmodels.experiment("emanet/common").but(model={"depth": 26}).build(3, seed=0)
    operator = module.context.operator
    start = operator.bases.clone()
    module.freeze_unreached()
    module.losses((torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.uint8)))
    seen = operator.seen / operator.images
    module.after_step()
    torch.testing.assert_close(operator.bases, 0.9 * start + 0.1 * seen, rtol=0, atol=1e-6)
    frozen = [name for name, each in module.named_parameters() if not each.requires_grad]
    assert sorted(frozen) == sorted(module.without_gradient)


def test_layer_normalization_gives_each_base_mean_0_and_variance_1_over_channels() -> None:
    torch.manual_seed(0)
    bases = torch.randn(2, 50, 3, dtype=torch.float64) * 4 + 1
    found = normalized(bases, "layer")
    assert found.shape == bases.shape
    deviation = (bases.var(1, correction=0, keepdim=True) + 1e-5).sqrt()  # torch's epsilon
    torch.testing.assert_close(found, (bases - bases.mean(1, keepdim=True)) / deviation)


def test_the_network_is_the_authors_in_what_its_weights_do_not_show() -> None:
    """network.py: deep stem, dropout of channels, corners; settings.py: BN_MOM."""
    network = segmodels.experiment("emanet").build(21, "meta")
    assert network.align_corners
    stem = [layer for layer in network.backbone.conv1 if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in stem] == [64, 64, 128]
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {3e-4}
    _, dropout, conv = network.classifier
    assert (type(dropout), dropout.p) == (nn.Dropout2d, 0.1)
    assert conv.kernel_size == (1, 1)
    unit = network.unit
    assert (unit.train_iterations, unit.eval_iterations, unit.lambda_) == (3, 3, 1.0)
    assert unit.bases.shape == (1, 512, 64)


def test_rows_are_those_of_the_papers_tables_and_one_difference_each() -> None:
    main = {"depth": 50, "channels": 512}
    different = {
        "resnet50": {},
        "resnet101": {"depth": 101},
        "resnet50_256": {"channels": 256},
        "resnet101_256": {"depth": 101, "channels": 256},
        "resnet152": {"depth": 152},
        "bases_32": {"bases": 32},
        "bases_128": {"bases": 128},
        "lambda_half": {"lambda_": 0.5},
        "lambda_2": {"lambda_": 2.0},
        "inner_kernel": {"kernel": "inner"},
        "gaussian_kernel": {"kernel": "gaussian", "normalization": "none"},
        "layer_norm": {"normalization": "layer"},
        "no_normalization": {"normalization": "none"},
        "bases_fixed": {"maintenance": "fixed"},
        "bases_trained": {"maintenance": "backpropagation"},
    }
    for name, options in different.items():
        assert EXPERIMENTS[name].model == {**main, **options}, name


def test_no_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="0 iterations in training and 3 in evaluation"):
        EMANet(3, train_iterations=0)


# --- the authors' code


@pytest.mark.parametrize(("channels", "millions"), [(256, 4.87), (512, 10.0)])
def test_the_papers_parameter_counts_are_those_of_reduction_unit_and_bases(
    channels: int, millions: float
) -> None:
    with torch.device("meta"):
        module = EMANet(21, depth=101, channels=channels)
    counted = [*module.reduction.parameters(), *module.unit.parameters(), module.unit.bases]
    assert round(sum(each.numel() for each in counted) / 1e6, 2) == millions


def test_last_stages_are_dilated_as_the_authors_are() -> None:
    with torch.device("meta"):
        backbone = EMANet(21).backbone
    stages = [
        [block.conv2.dilation[0] for block in stage]
        for stage in (backbone.layer2, backbone.layer3, backbone.layer4)
    ]
    assert stages == [[1] * 4, [1, 2, 2, 2, 2, 2], [2, 8, 16]]


def state(name: str) -> dict[str, Tensor]:
    layout = json.loads(gzip.decompress((REFERENCE / "released" / f"{name}.json.gz").read_bytes()))
    return {
        key: torch.from_numpy(np.array(value))
        for key, value in weights_from_names.fill_layout(layout).items()
    }


@pytest.mark.catalogue
@pytest.mark.parametrize("name", ["emanet_r50", "mmseg_emanet_r50_d8"])
def test_one_training_step_is_the_authors_in_float64(name: str) -> None:
    """Loss terms, gradients, batch-norm statistics and the bases after the step."""
    case = json.loads((REFERENCE / "steps" / f"{name}.json").read_text())
    golden = np.load(REFERENCE / "steps" / f"{name}.npz")
    module = segmodels.from_released(name, state(name)).double().train()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    label = inputs_from_names.build({"label": case["inputs"]["label"]})["label"]
    image = weights_from_names.make_input(
        case["inputs"]["image"]["name"], tuple(case["inputs"]["image"]["shape"])
    )
    terms = module.losses((torch.from_numpy(image).double(), torch.from_numpy(label)))
    for ours, theirs in STEPS[name].items():
        assert terms[ours].item() == pytest.approx(
            float(np.mean([case["terms"][each] for each in theirs])), rel=1e-9
        )
    assert sum(terms.values()).item() == pytest.approx(case["loss_value"], rel=1e-9)
    sum(terms.values()).backward()
    module.after_step()

    def renamed(theirs: str) -> str:
        (ours,) = layouts()[name].renamed({theirs: torch.empty(0)})
        return ours

    assert sorted(map(renamed, case["without_gradient"])) == sorted(module.without_gradient)
    norms = {
        renamed(each): norm for each, norm in zip(golden["param_names"], golden["param_grad_norms"])
    }
    assert norms.keys() == {
        each for each, parameter in module.named_parameters() if parameter.grad is not None
    }
    for ours, norm in norms.items():
        assert module.get_parameter(ours).grad.norm().item() == pytest.approx(
            norm, rel=1e-6, abs=1e-9 * case["grad_norm"]
        ), ours
    for theirs, facts in case["gradients"].items():
        gradient = module.get_parameter(renamed(theirs)).grad.flatten()[:: facts["stride"]].numpy()
        np.testing.assert_allclose(
            gradient, golden[f"grad/{theirs}/sample"].ravel(), rtol=0, atol=1e-6 * facts["max_abs"]
        )
    for theirs, facts in case["batchnorm"].items():
        layer = module.get_submodule(renamed(f"{theirs}.weight").removesuffix(".weight"))
        for kind in ("running_mean", "running_var"):
            statistic = getattr(layer, kind)[:: facts["stride"]].numpy()
            np.testing.assert_allclose(
                statistic, golden[f"bn/{theirs}/{kind}"], rtol=1e-6, atol=1e-7
            )
    for theirs, facts in case["buffers"].items():
        bases = module.get_buffer(renamed(theirs)).flatten()[:: facts["stride"]].numpy()
        np.testing.assert_allclose(bases, golden[f"buffer/{theirs}/sample"], rtol=0, atol=1e-7)


def test_parameter_groups_are_those_of_the_authors_code() -> None:
    groups = json.loads(
        gzip.decompress((REFERENCE / "steps" / "emanet_r50_groups.json.gz").read_bytes())
    )
    module = segmodels.experiment("emanet/resnet50").build()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    ours = {
        names[id(p)]: (round(group["lr"] / 0.009), group["weight_decay"])
        for group in module.parameter_groups()
        for p in group["params"]
    }
    renamed = layouts()["emanet_r50"].renamed
    theirs = {
        name: (g["lr_multiplier"], g["weight_decay"])
        for g in groups
        for name in renamed(dict.fromkeys(g["params"], torch.empty(0)))
    }
    assert ours == theirs


def test_the_rate_is_the_authors_where_theirs_moves_and_at_most_ten_steps_from_it_elsewhere() -> (
    None
):
    """Their code counts steps from 1 and moves the rate every tenth one, so that it stands at step k - 1 for our step k."""
    module = segmodels.experiment("emanet/resnet50").build(device="meta")
    schedule = module.schedule()
    authors = {
        0: 0.009,
        10: 0.008997299954994499,
        100: 0.008972995494490354,
        1000: 0.008729544401714395,
        15000: 0.004822980581413319,
    }
    for step, rate in authors.items():
        assert 0.009 * schedule(step) == pytest.approx(rate, rel=1e-9)
    for step, rate in {
        1: 0.009,
        2: 0.009,
        500: 0.008864886806421496,
        999: 0.008729544401714395,
        29999: 0.0,
    }.items():
        assert 0.009 * abs(schedule(max(0, step - 10)) - schedule(step)) + 1e-6 >= abs(
            0.009 * schedule(step) - rate
        )
