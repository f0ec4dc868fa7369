"""Tests of losses against the official code's numbers, the plain form and slow loops.

They also check the memory that a loss needs.
"""

import json
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segmodels.parts import losses
from segmodels.parts.losses import (
    ccnet_rule,
    coincheung_rule,
    cross_entropy,
    hrnet_rule,
    mmseg_rule,
    ohem,
    openseg_rule,
    stdc_rule,
    torchseg_rule,
)
from segmodels.parts.resize import tiles, upsampled_rows
from segmodels.recipe import Recipe, loss_settings
from tests.support.inputs_from_names import build
from tests.support.paths import REFERENCE

STORED = json.loads((REFERENCE / "losses.json").read_text())
SAMPLES = np.load(REFERENCE / "losses.npz")
CASES = [
    pytest.param(group, case, id=f"{group}-{case['id']}")
    for group, cases in STORED["groups"].items()
    for case in cases["cases"]
]
RETURNED = [x for x in CASES if x.values[1].get("value", "nan") != "nan"]
FAILED = [x for x in CASES if x.values[1].get("value", "nan") == "nan"]
# TorchSeg writes its class weights into the loss itself
TORCHSEG = [1.4297, 1.4805, 1.4363, 3.365, 2.6635, 1.4311, 2.1943, 1.4817, 1.4513, 2.1984]
TORCHSEG += [1.5295, 1.6892, 3.2224, 1.4727, 7.5978, 9.4117, 15.2588, 5.6818, 2.2067]

# (h, w) of the logits, (H, W) of the label: whole factors, fractions, odd, one axis only, the same, smaller, a single pixel
SIZES = [
    ((8, 12), (64, 96)),
    ((7, 9), (28, 36)),
    ((13, 11), (97, 85)),
    ((10, 14), (37, 45)),
    ((9, 9), (65, 65)),
    ((12, 10), (12, 40)),
    ((12, 10), (36, 10)),
    ((16, 20), (16, 20)),
    ((20, 31), (13, 17)),
    ((1, 1), (9, 7)),
    ((6, 5), (1, 1)),
]
SHAPES = [pytest.param(*sizes, id="{}x{}-{}x{}".format(*sizes[0], *sizes[1])) for sizes in SIZES]
RULES = {
    "torchseg": torchseg_rule(0.7, 40),
    "hrnet": hrnet_rule(0.7, 40),
    "openseg": openseg_rule(0.7, 40),
    "mmseg": mmseg_rule(0.7, 20),
    "mmseg without threshold": mmseg_rule(None, 20),
    "stdc": stdc_rule(0.7, 40),
    "coincheung": coincheung_rule(0.7),
}


def batch(
    small: tuple[int, int] = (8, 12),
    size: tuple[int, int] = (64, 96),
    classes: int = 7,
    ignored: float = 0.2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, *small, generator=random, dtype=torch.float64)
    label = torch.randint(0, classes, (2, *size), generator=random, dtype=torch.uint8)
    label[torch.rand(label.shape, generator=random) < ignored] = 255
    return logits.to(dtype).requires_grad_(), label


@pytest.fixture(params=["products", "rows"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upsample by products, as on a CPU, and by blending rows, as elsewhere."""
    if request.param == "rows":
        monkeypatch.setattr(losses, "products_are_exact", lambda logits: False)


def two_step(
    logits: Tensor,
    label: Tensor,
    align_corners: bool,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    full = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(full, label.long(), class_weights, ignore_index=255, reduction=reduction)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    scale = theirs.double().abs().max().clamp(min=1e-30)
    return float((ours.double() - theirs.double()).abs().max() / scale)


# --- the official code


def weights_of(options: dict) -> Tensor | None:
    name = options.get("class_weights", options.get("class_weight"))
    if options.get("use_weight"):
        return torch.tensor(TORCHSEG)
    return None if name is None else torch.tensor(STORED["class_weights"][name])


def ours(group: str, options: dict, made: dict[str, Tensor]) -> Tensor:
    """The official loss of a case in our words."""
    label, weights = made["label"].to(torch.uint8), weights_of(options)
    align_corners = options.get("align_corners", False)

    def mined(name: str, rule: losses.Rule) -> Tensor:
        return ohem(
            made[name], label, align_corners=align_corners, rule=rule, class_weights=weights
        )

    def plain(name: str, average: str = "valid", at: Tensor = label) -> Tensor:
        return cross_entropy(
            made[name], at, align_corners=align_corners, class_weights=weights, average=average
        )

    match group:
        case "torchseg_ohem" | "sfnet":
            rule = torchseg_rule(options["thresh"], options["min_kept"])
            return sum(mined(name, rule) for name in ("logits", "aux1", "aux2") if name in made)
        case "hrnet_ohem" if options.get("criterion") == "CrossEntropy":
            return plain("logits") if "aux" not in made else 0.4 * plain("aux") + plain("logits")
        case "hrnet_ohem":
            rule = hrnet_rule(options["thres"], options["min_kept"])
            if "aux" not in made:
                return mined("logits", rule)
            aux, main = options["balance_weights"]
            return aux * plain("aux", "all") + main * mined("logits", rule)
        case "stdc_ohem":
            return mined("logits", stdc_rule(options["thresh"], options["n_min"]))
        case "coincheung_ohem":
            return mined("logits", coincheung_rule(options["thresh"]))
        case "emanet":
            return plain("logits", "all")
        case "pspnet":
            return plain("logits") + 0.4 * plain("aux")
        case "ccnet":
            main = plain("logits")
            if "thresh" in options:
                rule = ccnet_rule(
                    made["logits"], align_corners, options["thresh"], options["min_kept"]
                )
                main = mined("logits", rule)
            return main + options["aux_weight"] * plain("aux")
        case "openseg":
            step = (
                label.shape[1] // made["logits"].shape[2]
            )  # openseg shrinks the label, nearest neighbor
            main = plain("logits", at=label[:, ::step, ::step])
            if "thresh" in options:
                main = mined("logits", openseg_rule(options["thresh"], options["min_kept"]))
            return main + (0.4 * plain("aux", at=label[:, ::step, ::step]) if "aux" in made else 0)
        case "mmseg" if options["loss"] == "OhemCrossEntropy":
            return mined("logits", hrnet_rule(options["thres"], options["min_kept"]))
        case "mmseg" if "sampler" in options:
            return mined("logits", mmseg_rule(options["thresh"], options["min_kept"]))
        case "mmseg":
            return plain(
                "logits", "valid" if options.get("avg_non_ignore") or weights is not None else "all"
            )
    raise AssertionError(f"no words for {group}")


def inputs_of(case: dict) -> dict[str, Tensor]:
    made = build({key: STORED["inputs"][name] for key, name in case["inputs"].items()})
    return {key: torch.from_numpy(x).requires_grad_(key != "label") for key, x in made.items()}


@pytest.mark.parametrize(("group", "case"), RETURNED)
def test_loss_and_gradient_are_those_of_the_official_code(group: str, case: dict) -> None:
    made = inputs_of(case)
    loss = ours(group, case["options"], made)
    assert loss.item() == pytest.approx(case["value"], rel=1e-6, abs=1e-12)
    loss.backward()
    for name, stored in case["gradient"].items():
        slope = made[name].grad
        if stored is None or stored["l2"] == 0:
            assert not slope.any()
            continue
        prefix = f"{group}/{case['id']}/{name}/"
        sample, largest = torch.from_numpy(SAMPLES[prefix + "sample"]), slope.abs().max()
        assert (slope.flatten()[:: stored["stride"]] - sample).abs().max() < 2e-6 * largest
        assert slope.double().norm().item() == pytest.approx(stored["l2"], rel=1e-5)
        assert slope.double().abs().sum().item() == pytest.approx(stored["abs_sum"], rel=1e-5)
        reached = slope.ne(0).any(1).flatten().numpy()
        assert (np.packbits(reached) == SAMPLES[prefix + "pixels"]).all()


# What ours returns where the official code returns nan or raises; "mean" and "diluted" are the sums that the cases have in common.
DECIDED = {
    "torchseg_ohem-all_ignored": "zero",
    "sfnet-all_ignored": "zero",
    "hrnet_ohem-all_ignored": "zero",
    "hrnet_ohem-all_ignored_class_weights": "zero",
    "hrnet_ohem-ce_all_ignored": "zero",
    "coincheung_ohem-all_ignored": "zero",
    "pspnet-all_ignored": "zero",
    "ccnet-all_ignored_dsn": "zero",
    "openseg-all_ignored_ce": "zero",
    "stdc_ohem-n_min_equals_all": "diluted",
    "mmseg-ce_class_weight": "mean",
}


@pytest.mark.parametrize(("group", "case"), FAILED)
def test_where_the_official_code_fails_ours_is_zero_or_the_plain_average(
    group: str, case: dict
) -> None:
    made = inputs_of(case)
    loss = ours(group, case["options"], made)
    logits, label, decided = made["logits"], made["label"], DECIDED[f"{group}-{case['id']}"]
    if decided == "mean":
        expected = two_step(logits, label, False, weights_of(case["options"]))
    elif decided == "diluted":
        expected = two_step(logits, label, False, reduction="sum") / label.numel()
    else:
        expected = (0 * logits).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=0)
    assert distance(gradient(loss, logits), gradient(expected, logits)) < 2e-6


def test_every_failing_case_of_the_official_code_is_decided() -> None:
    assert {x.id for x in FAILED} == set(DECIDED)


# --- the two-step form


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("small", "size"), SHAPES)
def test_cross_entropy_equals_the_two_step_form_in_float64(
    small: tuple[int, int], size: tuple[int, int], weighted: bool, align_corners: bool
) -> None:
    logits, label = batch(small, size, dtype=torch.float64)
    label[0, 0, 0] = 1
    weights = torch.rand(7, dtype=torch.float64) + 0.5 if weighted else None
    loss = cross_entropy(logits, label, align_corners=align_corners, class_weights=weights)
    plain = two_step(logits, label, align_corners, weights)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    assert distance(gradient(loss, logits), gradient(plain, logits)) < 1e-11


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "size"), SHAPES)
def test_cross_entropy_equals_the_two_step_form_in_float32(
    small: tuple[int, int], size: tuple[int, int], align_corners: bool
) -> None:
    logits, label = batch(small, size)
    label[0, 0, 0] = 1
    loss, plain = (
        cross_entropy(logits, label, align_corners=align_corners),
        two_step(logits, label, align_corners),
    )
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert distance(gradient(loss, logits), gradient(plain, logits)) < 2e-6


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_gradient_is_the_slope_of_the_loss(align_corners: bool) -> None:
    logits, label = batch((3, 4), (7, 9), classes=3, dtype=torch.float64)
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy(x, label, align_corners=align_corners, class_weights=weights),
        logits,
    )


@pytest.mark.parametrize("average", ["valid", "all", "sum"])
def test_pixel_weights_are_summed_pixel_by_pixel(average: str) -> None:
    logits, label = batch((4, 5), (8, 10), dtype=torch.float64)
    weights, of_class = (
        torch.rand(label.shape, dtype=torch.float64),
        torch.rand(7, dtype=torch.float64),
    )
    log_p = F.interpolate(logits, (8, 10), mode="bilinear").log_softmax(1)
    total, mass = torch.zeros(()), 0.0
    for i in range(label.numel()):
        image, row, column = np.unravel_index(i, label.shape)
        true = int(label[image, row, column])
        if true != 255:
            weight = of_class[true] * weights[image, row, column]
            total, mass = total - weight * log_p[image, true, row, column], mass + weight
    expected = total / {"valid": mass, "all": label.numel(), "sum": 1}[average]
    loss = cross_entropy(
        logits, label, align_corners=False, class_weights=of_class, weights=weights, average=average
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert distance(gradient(loss, logits), gradient(expected, logits)) < 1e-11


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_the_type_of_the_label_and_the_layout_of_the_logits_change_nothing(
    kind: torch.dtype, layout: torch.memory_format
) -> None:
    logits, label = batch()
    other = logits.detach().contiguous(memory_format=layout).requires_grad_()
    for form in (
        lambda x, y: cross_entropy(x, y, align_corners=False),
        lambda x, y: ohem(x, y, align_corners=False, rule=RULES["stdc"]),
    ):
        loss, same = form(logits, label), form(other, label.to(kind))
        assert loss.item() == same.item()
        assert torch.equal(gradient(loss, logits), gradient(same, other))


# --- mining


def stdc_by_sorting(loss: Tensor, threshold: float, count: int) -> Tensor:
    ordered = loss.flatten().sort(descending=True).values
    limit = -np.log(threshold)
    return ordered[ordered > limit].mean() if ordered[count] > limit else ordered[:count].mean()


def hrnet_by_sorting(loss: Tensor, label: Tensor, threshold: float, count: int) -> Tensor:
    valid = loss[label != 255]
    p = torch.exp(-valid.detach())
    limit = max(threshold, p.sort().values[min(count, len(p) - 1)])
    return valid[p < limit].mean()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("threshold", "count"), [(0.7, 100), (0.05, 3000), (0.7, 12000)])
@pytest.mark.parametrize("form", ["stdc", "hrnet"])
def test_mining_upsampled_logits_equals_sorting_them_at_full_size(
    form: str, threshold: float, count: int, align_corners: bool
) -> None:
    logits, label = batch(dtype=torch.float64)
    full = two_step(logits, label, align_corners, reduction="none")
    if form == "stdc":
        rule, expected = stdc_rule(threshold, count), stdc_by_sorting(full, threshold, count)
    else:
        rule, expected = (
            hrnet_rule(threshold, count),
            hrnet_by_sorting(full, label, threshold, count),
        )
    loss = ohem(logits, label, align_corners=align_corners, rule=rule)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert distance(gradient(loss, logits), gradient(expected, logits)) < 1e-11


@pytest.mark.parametrize("rule", [torchseg_rule, hrnet_rule, openseg_rule, stdc_rule])
def test_a_share_of_the_pixels_is_that_many_pixels(rule: Callable[..., losses.Rule]) -> None:
    logits, label = batch()
    shared, counted = (
        ohem(logits, label, align_corners=False, rule=rule(1e-4, kept))
        for kept in (1 / 16, label.numel() // 16)
    )
    fewer = ohem(logits, label, align_corners=False, rule=rule(1e-4, label.numel() // 32))
    assert shared.item() == counted.item() != fewer.item()


def test_openseg_counts_an_ignored_first_pixel_as_class_0_without_loss() -> None:
    logits, label = batch((2, 3), (2, 3), classes=3, dtype=torch.float64)
    label[0, 0] = torch.tensor([255, 0, 1])
    label[1] = 255
    label[0, 1] = 255
    p = logits.detach().softmax(1)[0, :, 0]
    kept = [-torch.log(p[0, 1]), -torch.log(p[1, 2])]
    count = 2 + 1  # with a threshold of 1 every p is below it
    loss = ohem(logits, label, align_corners=False, rule=openseg_rule(1.0, 1))
    assert loss.item() == pytest.approx(float(sum(kept)) / count, rel=1e-12)
    assert ohem(
        logits, label, align_corners=False, rule=hrnet_rule(1.0, 1)
    ).item() == pytest.approx(float(sum(kept)) / 2, rel=1e-12)


def test_class_weights_weigh_the_losses_that_stdc_sorts() -> None:
    logits, label = batch(dtype=torch.float64)
    weights = torch.linspace(0.2, 3, 7, dtype=torch.float64)
    full = two_step(logits, label, False, weights, reduction="none")
    for threshold, count in ((0.7, 100), (0.001, 3000)):
        loss, expected = (
            ohem(
                logits,
                label,
                align_corners=False,
                rule=stdc_rule(threshold, count),
                class_weights=weights,
            ),
            stdc_by_sorting(full, threshold, count),
        )
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert distance(gradient(loss, logits), gradient(expected, logits)) < 1e-11


def test_losses_that_tie_for_the_last_places_share_them() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 1, 0, 0] = 5.0
    logits.requires_grad_()
    label = torch.zeros(1, 1, 4, dtype=torch.uint8)
    loss = ohem(logits, label, align_corners=False, rule=stdc_rule(0.001, 2))
    hard, tied = np.log1p(np.exp(5.0)), np.log(2.0)
    assert loss.item() == pytest.approx((hard + tied) / 2, rel=1e-6)
    slope = gradient(loss, logits)[0, 1, 0]
    assert torch.allclose(slope[1:], torch.full((3,), 0.5 / 3 / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kth_smallest_is_that_of_a_sort_in_both_ways_of_finding_it(dtype: torch.dtype) -> None:
    values = (
        torch.rand(2, 5, 50, dtype=dtype)
        * torch.tensor([0, 1e-30, 1, 1e3, 1e30], dtype=dtype)[:, None]
    )
    values[0, 1] = torch.inf
    ordered = values.flatten().sort().values
    for k in (1, 2, 100, 101, 250, 449, 450, 451, 500):
        for found in (
            losses._kth_smallest(values, k),
            losses._kth_smallest_bits(values, torch.tensor(k)),
        ):
            assert found == ordered[k - 1]
    assert (
        losses._kth_smallest(values, 900) == losses._kth_smallest_bits(values, 900) == ordered[-1]
    )


@pytest.mark.parametrize("name", RULES)
def test_mining_more_pixels_than_there_are_is_no_error(name: str) -> None:
    logits, label = batch((4, 4), (8, 8))
    label[0, 0, 0] = 1
    generous = {
        "torchseg": torchseg_rule(0.7, 10**9),
        "hrnet": hrnet_rule(0.7, 10**9),
        "openseg": openseg_rule(0.7, 10**9),
        "mmseg": mmseg_rule(0.7, 10**9),
        "mmseg without threshold": mmseg_rule(None, 10**9),
        "stdc": stdc_rule(0.7, 10**9),
        "coincheung": coincheung_rule(0.7, 1),
    }[name]
    loss = ohem(logits, label, align_corners=False, rule=generous)
    full = two_step(logits, label, False, reduction="none")
    valid = full[label != 255]
    expected = {
        "torchseg": valid.mean(),
        "hrnet": (valid.sum() - valid.min()) / (len(valid) - 1),
        "openseg": (valid.sum() - valid.min()) / (len(valid) - 1),
        "mmseg": (valid.sum() - valid.min()) / full.numel(),
        "mmseg without threshold": full.mean(),
        "stdc": full.mean(),
        "coincheung": valid.mean(),
    }[name]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def limit_on_a_small_map(
    logits: Tensor, label: Tensor, threshold: float, count: int, align_corners: bool
) -> float:
    """find_threshold of CCNet's loss/loss.py: what scipy makes of probabilities and labels."""
    size = label.shape[1:]
    full = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners).softmax(1)
    small = zoom(full.numpy(), (1, 1, 1 / 8, 1 / 8), order=1)
    nearest = zoom(label.numpy(), (1, 1 / 8, 1 / 8), order=0)
    image, row, column = np.nonzero(nearest != 255)
    p = np.sort(small[image, nearest[image, row, column], row, column])
    least = count // 64
    if least >= len(p):
        return 1.0
    return max(threshold, p[least - 1]) if least else threshold


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("threshold", "count"), [(0.9, 640), (1e-9, 640), (1e-9, 63), (1e-9, 6400), (1e-9, 10**9)]
)
def test_ccnets_limit_is_found_on_an_eighth_of_rows_and_columns(
    threshold: float, count: int, align_corners: bool
) -> None:
    logits, label = batch((13, 11), (97, 85), dtype=torch.float64)
    logits = logits.detach()
    limit = limit_on_a_small_map(logits, label, threshold, count, align_corners)
    each = two_step(logits, label, align_corners, reduction="none")
    kept = (label != 255) & (torch.exp(-each) <= limit)
    expected = each[kept].mean().item() if kept.any() else 0.0
    rule = ccnet_rule(logits, align_corners, threshold, count)
    found = ohem(logits, label, align_corners=align_corners, rule=rule)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert 0 <= limit <= 1


def test_ccnets_small_map_has_a_pixel_at_least() -> None:
    logits, label = torch.zeros(1, 5, 1, 1), torch.zeros(1, 3, 3, dtype=torch.uint8)
    loss = losses.pixel_loss("ccnet_ohem:0.7,9", logits, label, align_corners=True)
    assert loss.item() == pytest.approx(math.log(5))


# --- precision, blocks, memory, graph


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    logits, label = batch(dtype=dtype)
    exact = logits.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        pairs = [
            (
                cross_entropy(logits, label, align_corners=False),
                cross_entropy(exact, label, align_corners=False),
            ),
            (
                ohem(logits, label, align_corners=False, rule=RULES["hrnet"]),
                ohem(exact, label, align_corners=False, rule=RULES["hrnet"]),
            ),
        ]
    for half, single in pairs:
        assert half.dtype == torch.float32
        assert half.item() == single.item()
        assert torch.equal(gradient(half, logits), gradient(single, exact).to(dtype))
    assert pairs[0][0].item() == pytest.approx(two_step(exact, label, False).item(), rel=1e-6)


def test_a_scaled_loss_keeps_the_gradients_that_half_precision_would_round_to_zero() -> None:
    logits, label = batch(dtype=torch.float16)
    exact, small = logits.detach().float().requires_grad_(), torch.full(label.shape, 1e-5)
    half, single = (
        cross_entropy(x, label, align_corners=False, weights=small, average="all")
        for x in (logits, exact)
    )
    lost = gradient(half, logits) == 0
    assert lost.sum() > 0.5 * logits.numel()
    assert torch.equal(gradient(half * 2.0**16, logits), gradient(single * 2.0**16, exact).half())
    assert (gradient(half * 2.0**16, logits)[lost] != 0).float().mean() > 0.5


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "size"), SHAPES)
def test_no_block_size_changes_the_result(
    small: tuple[int, int],
    size: tuple[int, int],
    align_corners: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, label = batch(small, size, dtype=torch.float64)
    label[0, 0, 0] = 1
    row = 7 * size[1]
    for form in (
        lambda block: cross_entropy(logits, label, align_corners=align_corners, block=block),
        lambda block: ohem(
            logits, label, align_corners=align_corners, rule=RULES["coincheung"], block=block
        ),
    ):
        monkeypatch.setattr(losses, "_COLUMNS", 256)
        whole = form(10**9)
        for block, columns in ((1, 256), (3, 256), (row * 20, 256), (2 * row * 17, 17)):
            monkeypatch.setattr(losses, "_COLUMNS", columns)
            loss = form(block)
            assert loss.item() == pytest.approx(whole.item(), rel=1e-13)
            assert distance(gradient(loss, logits), gradient(whole, logits)) < 1e-12


class Watch(TorchDispatchMode):
    """Remembers the operations inside it, and the most elements that any tensor they made had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.operations = 0, set()

    def __torch_dispatch__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        made = function(*args, **(kwargs or {}))
        self.operations.add(str(function))
        for x in made if isinstance(made, tuple | list) else [made]:
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return made


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("rule", [None, *RULES])
def test_logits_of_the_size_of_the_label_never_exist(rule: str | None) -> None:
    logits, label = batch((16, 16), (128, 128), classes=19)
    with Watch() as ours:
        if rule is None:
            loss = cross_entropy(logits, label, align_corners=False, block=1 << 14)
        else:
            loss = ohem(logits, label, align_corners=False, rule=RULES[rule], block=1 << 14)
        loss.backward()
    with Watch() as theirs:
        two_step(logits, label, False)
    assert theirs.elements == 19 * label.numel()
    assert ours.elements < theirs.elements / 10


@pytest.mark.parametrize("threads", [1, 2])
def test_a_block_has_a_part_for_each_thread(threads: int) -> None:
    logits, label = batch((48, 48), (384, 384), classes=19)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with Watch() as watch:
            cross_entropy(logits, label, align_corners=False)
    finally:
        torch.set_num_threads(before)
    assert 0.9 * 2**19 * threads < watch.elements <= 2**19 * threads


@pytest.mark.parametrize("name", [None, *RULES])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_without_a_valid_pixel_gives_zero_and_a_zero_gradient(
    name: str | None, weighted: bool
) -> None:
    logits, label = batch()
    label.fill_(255)
    weights = torch.rand(7) if weighted else None
    if name is None:
        loss = cross_entropy(logits, label, align_corners=False, class_weights=weights)
    else:
        loss = ohem(logits, label, align_corners=False, rule=RULES[name], class_weights=weights)
    assert loss.item() == 0
    assert torch.equal(gradient(loss, logits), torch.zeros_like(logits))


@pytest.mark.usefixtures("both_ways")
def test_an_infinite_logit_under_an_ignored_pixel_does_no_harm() -> None:
    logits, label = batch((6, 6), (6, 6))
    with torch.no_grad():
        logits[:, 0, :2] = -torch.inf
    label[:, :2] = 255
    for loss in (
        cross_entropy(logits, label, align_corners=False),
        *(ohem(logits, label, align_corners=False, rule=r) for r in RULES.values()),
    ):
        assert loss.isfinite()
        assert gradient(loss, logits).isfinite().all()


def test_the_loss_may_be_weighed_added_and_sent_back_twice() -> None:
    logits, label = batch(dtype=torch.float64)
    total = 0.4 * cross_entropy(logits, label, align_corners=False) + ohem(
        logits, label, align_corners=True, rule=RULES["torchseg"]
    )
    once = gradient(total, logits)
    assert torch.equal(once, gradient(total, logits))
    parts = gradient(cross_entropy(logits, label, align_corners=False), logits) * 0.4
    assert (
        distance(
            once,
            parts
            + gradient(ohem(logits, label, align_corners=True, rule=RULES["torchseg"]), logits),
        )
        < 1e-12
    )


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    logits, label = batch()
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(
            cross_entropy(logits, label, align_corners=False), logits, create_graph=True
        )


@pytest.mark.usefixtures("both_ways")
def test_without_a_graph_the_value_is_the_same_and_no_gradient_is_made() -> None:
    logits, label = batch()
    for form in (
        lambda x: cross_entropy(x, label, align_corners=False),
        lambda x: ohem(x, label, align_corners=False, rule=RULES["stdc"]),
    ):
        with Watch() as learning:
            loss = form(logits)
        with Watch() as judging:
            value = form(logits.detach())
        with torch.no_grad():
            assert not form(logits).requires_grad
        assert value.item() == loss.item()
        assert "aten.scatter_.src" in learning.operations - judging.operations


def products_in(logits: Tensor, label: Tensor) -> set[str]:
    with Watch() as watch:
        loss = cross_entropy(logits, label, align_corners=False)
    assert loss.item() == pytest.approx(two_step(logits, label, False).item(), rel=1e-6)
    return watch.operations & {"aten.mm.default", "aten.bmm.default"}


def test_matrix_products_are_not_used_where_they_would_be_less_exact() -> None:
    logits, label = batch()
    assert products_in(logits, label)
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        assert not products_in(logits, label)
    finally:
        settings.fp32_precision = before
    with torch.no_grad():
        logits[0, :, 0, 0] = torch.inf
    label[0, :12, :12] = 255  # four pixels or more around the first corner are made of infinity
    assert not products_in(logits, label)


# --- strips of rows, and tiles


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize(("small", "size"), SHAPES)
def test_upsampled_rows_are_those_of_the_whole_map(
    small: tuple[int, int], size: tuple[int, int], rows: int, align_corners: bool
) -> None:
    for dtype, limit in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        logits, _ = batch(small, size, dtype=dtype)
        whole = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
        for top in range(0, size[0], rows):
            bottom = min(top + rows, size[0])
            strip = upsampled_rows(logits, size, top, bottom, align_corners)
            assert strip.shape == (2, 7, bottom - top, size[1])
            assert (strip - whole[:, :, top:bottom]).abs().max() < limit * whole.abs().max()


def test_upsampled_rows_of_a_large_fractional_map_round_as_torch_does() -> None:
    logits = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits, (769, 769), mode="bilinear", align_corners=False)
    assert (
        upsampled_rows(logits, (769, 769), 640, 704, False) - whole[:, :, 640:704]
    ).abs().max() < 1e-6


def test_upsampled_rows_keep_half_precision_and_carry_a_gradient() -> None:
    logits, _ = batch(dtype=torch.bfloat16)
    whole = F.interpolate(logits, (64, 96), mode="bilinear")[:, :, 10:20]
    strip = upsampled_rows(logits, (64, 96), 10, 20, False)
    assert strip.dtype == torch.bfloat16
    assert (strip.float() - whole.float()).abs().max() <= 2**-8 * whole.abs().max()
    assert (
        distance(gradient(strip.float().sum(), logits), gradient(whole.float().sum(), logits))
        < 2e-2
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "size"), SHAPES)
def test_tiles_are_those_of_the_whole_map_and_send_its_gradient_back(
    small: tuple[int, int], size: tuple[int, int], align_corners: bool
) -> None:
    logits, _ = batch(small, size, dtype=torch.float64)
    whole = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    slope = torch.randn_like(whole)
    seen = torch.zeros_like(whole)
    brought_back = torch.zeros_like(logits)
    for tile in tiles(small, size, 7, 16, align_corners, torch.float64):
        part = logits.detach()[:, :, *tile.source].contiguous()
        seen[:, :, *tile.at] += tile.upsampled(part)
        brought_back[:, :, *tile.source] += tile.transposed(slope[:, :, *tile.at].contiguous())
    assert distance(seen, whole.detach()) < 1e-13
    assert distance(brought_back, gradient((whole * slope).sum(), logits)) < 1e-13


# --- refusals


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    logits, label = batch()
    with pytest.raises(ValueError, match="'valid'"):
        cross_entropy(logits, label, align_corners=False, average="mean")
    with pytest.raises(ValueError, match=r"allowed: \(7,\)"):
        cross_entropy(logits, label, align_corners=False, class_weights=torch.ones(19))
    with pytest.raises(ValueError, match="must be equal"):
        cross_entropy(logits, label, align_corners=False, weights=torch.ones(2, 1, 1))
    with pytest.raises(TypeError, match=r"torch\.uint8 or torch\.int64"):
        cross_entropy(logits, label.int(), align_corners=False)
    with pytest.raises(ValueError, match=r"\(B, H, W\)"):
        ohem(logits, label[:1], align_corners=False, rule=RULES["stdc"])
    with pytest.raises(ValueError, match="0 <= top < bottom <= 64"):
        upsampled_rows(logits, (64, 96), 60, 70, False)
    for wrong in ((0, 10), (1.5, 10), (0.7, -1), (0.7, 16.0)):
        with pytest.raises(ValueError, match="allowed"):
            stdc_rule(*wrong)


def test_a_label_beyond_the_classes_is_an_error_and_not_a_number() -> None:
    logits, label = batch()
    label[0, 3, 3] = 9
    with pytest.raises((IndexError, RuntimeError)):
        cross_entropy(logits, label, align_corners=False)
    with pytest.raises((IndexError, RuntimeError)):
        ohem(logits, label, align_corners=False, rule=RULES["hrnet"])


# --- by the names that recipes use

NAMED = {
    "cross_entropy": None,
    "torchseg_ohem:0.7,1/16": torchseg_rule(0.7, 1 / 16),
    "torchseg_ohem:0.7,100000/2097152": torchseg_rule(0.7, 100_000 / 2_097_152),
    "hrnet_ohem:0.9,40": hrnet_rule(0.9, 40),
    "openseg_ohem:0.7,0.0625": openseg_rule(0.7, 0.0625),
    "stdc_ohem:0.7,1/16": stdc_rule(0.7, 1 / 16),
    "mmseg_ohem:0.7,50": mmseg_rule(0.7, 50),
    "coincheung_ohem:0.7": coincheung_rule(0.7),
    "ccnet_ohem:0.7,1/4": partial(ccnet_rule, threshold=0.7, min_kept=1 / 4),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_loss_by_its_name_is_that_loss(name: str) -> None:
    logits, label = 3 * torch.randn(2, 5, 8, 12), torch.randint(5, (2, 32, 48))
    label[:, :4] = 255
    settings = {"align_corners": True, "class_weights": torch.rand(5) + 0.5}
    rule = NAMED[name]
    if name.startswith("ccnet"):
        rule = rule(logits, align_corners=True)
    plain = (
        ohem(logits, label, rule=rule, **settings)
        if rule
        else cross_entropy(logits, label, **settings)
    )
    assert torch.equal(losses.pixel_loss(name, logits, label, **settings), plain)
    assert loss_settings(name)[0] == name.partition(":")[0]


@pytest.mark.parametrize("average", ["all", "sum"])
def test_other_divisors_of_cross_entropy_have_names_too(average: str) -> None:
    logits, label = torch.randn(1, 3, 4, 4), torch.randint(3, (1, 8, 8))
    label[:, :4] = 255
    plain = cross_entropy(logits, label, align_corners=False, average=average)
    named = losses.pixel_loss(f"cross_entropy:{average}", logits, label, align_corners=False)
    assert torch.equal(named, plain)
    assert loss_settings(f"cross_entropy:{average}") == ("cross_entropy", (average,))


@pytest.mark.parametrize(
    "word",
    ["ohem", "cross_entropy:some", "cross_entropy:", "hrnet_ohem", "hrnet_ohem:0.9", "hrnet_ohem:0.9,1/0",
     "hrnet_ohem:x,1/48", "mmseg_ohem:0.7,1/16", "coincheung_ohem:0.7,3", "stdc_ohem:0,1/16", "hrnet_ohem:0.9,1/48,"],
)  # fmt: skip
def test_a_loss_that_does_not_exist_is_refused_with_those_that_do(word: str) -> None:
    with pytest.raises(
        ValueError, match=r"recipe.loss is .*there are cross_entropy; .*hrnet_ohem:0.9,1/48"
    ):
        Recipe(loss=word)


def test_weights_per_pixel_do_not_go_with_a_loss_that_chooses_pixels() -> None:
    logits, label = torch.randn(1, 3, 8, 8), torch.randint(3, (1, 8, 8))
    weights = torch.rand(1, 8, 8)
    settings = {"align_corners": False, "weights": weights}
    per_pixel = F.cross_entropy(logits, label, reduction="none")
    expected = (weights * per_pixel).sum() / weights.sum()
    torch.testing.assert_close(
        losses.pixel_loss("cross_entropy", logits, label, **settings), expected
    )
    with pytest.raises(ValueError, match="go with cross_entropy"):
        losses.pixel_loss("stdc_ohem:0.7,1/16", logits, label, **settings)
