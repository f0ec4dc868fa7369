"""Tests of the fully-connected CRF: the sums over all pairs of pixels, the lattice, the mode."""

import json
import math
from dataclasses import FrozenInstanceError
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.mean_field import pydensecrf_marginals
from segmodels import inference_modes
from segmodels.module import Normalization, SegmentationModule
from segmodels.parts.crf import Lattice, Settings, exact, marginals, strides_of
from tests.support.paths import REFERENCE

BOTH = [exact, Lattice]
AUTHORS = json.loads((REFERENCE / "crf.json").read_text())["settings"]


def random_probabilities(classes: int, height: int, width: int) -> Tensor:
    return torch.randn(classes, height, width).softmax(0)


def street(classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image of noisy colored patches, and coarse probabilities of what is in it."""
    patches = torch.randint(classes, (height // 16, width // 16))
    colors = torch.randint(256, (classes, 3)).float()
    place = F.interpolate(patches[None, None].float(), (height, width), mode="nearest")
    light = torch.linspace(-20, 20, width) + 4 * torch.randn(3, height, width)
    image = (colors[place[0, 0].long()].permute(2, 0, 1) + light).clamp(0, 255)  # (3, H, W)
    small = F.one_hot(place[0, 0, ::8, ::8].long(), classes).permute(2, 0, 1).float()
    scores = 4 * small + torch.randn_like(small)
    full = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)
    return full[0].softmax(0), image.to(torch.uint8)


def looped(probabilities: Tensor, image: Tensor, settings: Settings) -> np.ndarray:
    """The mean field, with kernels by a double loop over pixels, in float64."""
    classes, height, width = probabilities.shape
    pixels = [(x, y, *image[:, y, x].tolist()) for y in range(height) for x in range(width)]
    appearance = np.zeros((len(pixels), len(pixels)))
    smoothness = np.zeros_like(appearance)
    for i, (x, y, *color) in enumerate(pixels):
        for j, (other_x, other_y, *other) in enumerate(pixels):
            far = (x - other_x) ** 2 + (y - other_y) ** 2
            unlike = math.dist(color, other) ** 2
            smoothness[i, j] = math.exp(-far / (2 * settings.smoothness_position**2))
            near = far / (2 * settings.appearance_position**2)
            appearance[i, j] = math.exp(-near - unlike / (2 * settings.appearance_color**2))
    total = np.zeros_like(appearance)
    weights = (settings.appearance_weight, settings.smoothness_weight)
    for weight, kernel in zip(weights, (appearance, smoothness)):
        sums = kernel.sum(1)
        total += weight * kernel / np.sqrt(np.outer(sums, sums))
    unary = probabilities.reshape(classes, -1).double().numpy()  # (C, H, W) -> (C, H*W)
    refined = unary.copy()
    for _ in range(settings.steps):
        message = np.stack([total @ refined[label] for label in range(classes)])
        weighted = unary * np.exp(message)
        refined = weighted / weighted.sum(0)
    return refined.reshape(classes, height, width)


@pytest.mark.parametrize("name", AUTHORS)
def test_the_lattice_is_that_of_the_authors(name: str) -> None:
    with np.load(REFERENCE / "crf.npz") as stored:
        probabilities, image = map(torch.from_numpy, (stored["probabilities"], stored["image"]))
        theirs = torch.from_numpy(stored[name])
    found = marginals(probabilities, image, Settings(*AUTHORS[name]))
    assert (theirs - probabilities).abs().max() > 0.1
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [Settings(), Settings(3, 5, 20, 40, 2, 3)])
def test_the_exact_form_is_the_double_loop(settings: Settings) -> None:
    probabilities = random_probabilities(4, 24, 32)
    image = torch.randint(256, (3, 3, 4), dtype=torch.uint8)
    image = image.repeat_interleave(8, 1).repeat_interleave(8, 2)  # 24 x 32
    image = image // 2 + torch.randint(4, image.shape, dtype=torch.uint8)
    found = marginals(probabilities, image, settings, exact)
    slow = looped(probabilities, image, settings)
    assert np.abs(slow - probabilities.numpy()).max() > 0.1  # it does something
    np.testing.assert_allclose(found.numpy(), slow, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 64), pytest.param((96, 128), marks=pytest.mark.slow)])
def test_the_lattice_agrees_with_the_exact_form_on_nearly_every_pixel(
    size: tuple[int, int],
) -> None:
    probabilities, image = street(6, *size)
    found = marginals(probabilities, image)
    wanted = marginals(probabilities, image, make_filter=exact)
    assert (wanted.argmax(0) != probabilities.argmax(0)).float().mean() > 0.02
    assert (found.argmax(0) == wanted.argmax(0)).float().mean() >= 0.995
    assert (found - wanted).abs().mean() < 0.002


@pytest.mark.skipif(find_spec("pydensecrf") is None, reason="pydensecrf2 is not installed")
def test_the_lattice_is_that_of_pydensecrf_on_a_larger_image() -> None:
    probabilities, image = street(6, 96, 128)
    theirs = pydensecrf_marginals(probabilities, image, Settings())
    found = marginals(probabilities, image)
    assert (found.argmax(0) == theirs.argmax(0)).float().mean() > 0.999
    assert (found - theirs).abs().mean() < 1e-5


@pytest.mark.parametrize("make_filter", BOTH)
def test_one_class_stays_certain(make_filter: type) -> None:
    image = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    found = marginals(torch.ones(1, 5, 7), image, make_filter=make_filter)
    assert torch.equal(found, torch.ones(1, 5, 7))


@pytest.mark.parametrize("make_filter", BOTH)
def test_one_pixel_hears_only_itself(make_filter: type) -> None:
    probabilities = torch.tensor([0.3, 0.7]).view(2, 1, 1)  # (C, H, W)
    image = torch.zeros(3, 1, 1, dtype=torch.uint8)
    found = marginals(probabilities, image, Settings(steps=1), make_filter)
    wanted = (probabilities.log() + (4 + 3) * probabilities).softmax(0)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("make_filter", BOTH)
def test_an_image_of_one_color_is_smoothed_toward_the_class_of_most(make_filter: type) -> None:
    probabilities = torch.full((2, 20, 30), 0.2)
    probabilities[0] = 0.8
    probabilities[:, 8, 9] = torch.tensor([0.1, 0.9])
    image = torch.full((3, 20, 30), 255, dtype=torch.uint8)
    found = marginals(probabilities, image, make_filter=make_filter)
    assert not found.argmax(0).any() and found.isfinite().all()
    torch.testing.assert_close(found.sum(0), torch.ones(20, 30))


def test_a_class_without_probability_counts_as_one_of_a_hundred_thousandth() -> None:
    image = torch.zeros(3, 1, 1, dtype=torch.uint8)
    found = marginals(torch.tensor([0.0, 1.0]).view(2, 1, 1), image, Settings(steps=0))
    wanted = torch.tensor([1e-5, 1.0]) / (1e-5 + 1.0)
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-5, atol=0)


def test_without_weights_the_probabilities_stay() -> None:
    probabilities = random_probabilities(3, 6, 8)
    image = torch.randint(256, (3, 6, 8), dtype=torch.uint8)
    found = marginals(probabilities, image, Settings(10, 0, 67, 3, 0, 1))
    torch.testing.assert_close(found, probabilities)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_corners_of_one_point_are_a_ring_of_neighbors(d: int) -> None:
    """From one corner to the next is a step along one axis, along each of them once."""
    lattice = Lattice(5 * torch.rand(1, d, dtype=torch.float64))
    corners = d + 1
    assert lattice.corners.tolist()[0] != [0] * corners and len(lattice.starts) == corners + 1
    after = torch.stack([neighbors[:-1, 0] for neighbors in lattice.neighbors])
    assert (after < corners).sum(1).tolist() == [1] * corners  # axis by axis
    assert (after < corners).sum(0).tolist() == [1] * corners  # corner by corner
    torch.testing.assert_close(lattice.weights.sum(1), torch.ones(1))


def test_a_key_counts_the_vertices_before_it_up_to_2_to_the_62nd() -> None:
    """Neighbors of the last one must have keys of 64 bits too."""
    first, second, last = strides_of([3, 4, 9])
    assert [i * first + j * second for i in range(3) for j in range(4)] == list(range(12))
    assert last == 0  # it is what the others lack to a sum of 0
    assert strides_of([2**31, 2**31, 9]) == [2**31, 1, 0]
    with pytest.raises(ValueError, match="2147483648 x 2147483649 vertices is too fine"):
        strides_of([2**31, 2**31 + 1, 9])


def test_a_lattice_too_fine_for_its_keys_is_refused() -> None:
    image = torch.randint(256, (3, 30, 40), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"too fine; the standard deviations .* must be larger"):
        marginals(random_probabilities(2, 30, 40), image, Settings(1, 4, 1e-3, 1e-3))


# --- the mode


class Small(SegmentationModule):
    """A network of stride 4."""

    normalization = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), order="BGR")

    def __init__(self) -> None:
        super().__init__(num_classes=5)
        self.classifier = nn.Conv2d(3, 5, 5, 4, 2)

    def features(self, image: Tensor) -> Tensor:
        return image


def two_images() -> Tensor:
    return torch.randint(256, (2, 3, 24, 36), dtype=torch.uint8)


def test_the_mode_is_the_part_called_on_each_image_of_a_batch() -> None:
    network, image = Small(), two_images()
    strips = inference_modes.mode("crf:3,5,30,9,2,2+multiscale:0.5,1+flip")(network, image)
    inner = inference_modes.mode("multiscale:0.5,1+flip")(network, image).full()
    wanted = [marginals(*pair, Settings(3, 5, 30, 9, 2, 2)) for pair in zip(inner, image)]
    assert strips.averaged and strips.size == (24, 36)
    assert torch.equal(strips.full(), torch.stack(wanted))
    assert torch.equal(strips.rows(5, 9), torch.stack(wanted)[:, :, 5:9])


def test_a_number_of_steps_alone_takes_the_settings_that_deeplab_released() -> None:
    """configs/voc12.yaml of kazuto1011/deeplab-pytorch: ITER_MAX, BI_*, POS_*."""
    network, image = Small(), two_images()
    short = inference_modes.mode("crf:10")(network, image).full()
    assert torch.equal(
        short, inference_modes.mode("crf:10,4,67,3,3,1+whole")(network, image).full()
    )
    assert Settings() == Settings(10, 4, 67, 3, 3, 1)
    with pytest.raises(FrozenInstanceError):  # every call without settings has the same ones
        Settings().steps = 5


def test_normalized_floats_are_refined_as_their_pixels_are() -> None:
    network, image = Small(), two_images()
    crf = inference_modes.mode("crf:4")
    assert torch.equal(crf(network, image).full(), crf(network, network.normalized(image)).full())


def test_the_image_is_refined_once_and_not_before_a_row_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refined = []

    def counted(probabilities: Tensor, image: Tensor, settings: Settings) -> Tensor:
        refined.append(settings.steps)
        return probabilities

    monkeypatch.setattr(inference_modes, "marginals", counted)
    strips = inference_modes.mode("crf:7")(Small(), two_images())
    assert refined == []
    strips.argmax(block=5)
    strips.most_likely()
    assert refined == [7, 7]  # two images


def test_half_precision_around_it_changes_only_the_network() -> None:
    probabilities, image = street(4, 32, 48)
    wanted = marginals(probabilities, image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(marginals(probabilities, image), wanted)


@pytest.mark.parametrize(
    "text", ["crf", "crf:0", "crf:1.5", "crf:10,4", "crf:10,4,0,3,3,1", "crf:5,"]
)
def test_other_settings_are_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"no inference mode; there are .*crf:10,4,67,3,3,1"):
        inference_modes.mode(text)


@pytest.mark.parametrize("text", ["flip+crf:10", "crf:5+crf:5"])
def test_a_crf_comes_first_among_modes(text: str) -> None:
    with pytest.raises(ValueError, match=r"crf:\.\.\. comes first"):
        inference_modes.mode(text)
