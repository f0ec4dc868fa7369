"""Tests of inference modes against the plain full-size computation."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels import inference_modes
from segmodels.module import SegmentationModule


class Small(SegmentationModule):
    """A network of stride 4 that needs multiples of 8."""

    multiple = 8

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__(num_classes=5)
        self.align_corners = align_corners
        self.classifier = nn.Conv2d(3, 5, 5, 4, 2)

    def features(self, image: Tensor) -> Tensor:
        return image


def image(height: int = 48, width: int = 80) -> Tensor:
    return torch.randn(1, 3, height, width)


def test_pixels_are_normalized_by_the_six_numbers_of_imagenet() -> None:
    """image_mean and image_std of TorchSeg's config.py; torchvision's classifiers have the same."""
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 3, 1, 3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = [[(value - mean[c]) / std[c] for value in (0.0, 0.2, 1.0)] for c in range(3)]
    torch.testing.assert_close(Small().normalized(pixels)[0, :, 0], torch.tensor(wanted))


@pytest.mark.parametrize("align_corners", [False, True])
def test_whole_is_the_plain_upsampled_output(align_corners: bool) -> None:
    network, x = Small(align_corners), image()
    plain = F.interpolate(network.logits(x), (48, 80), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(inference_modes.whole(network, x).full(), plain)
    assert torch.equal(
        inference_modes.whole(network, x).argmax(block=7), plain.argmax(1).to(torch.uint8)
    )


def test_an_odd_size_is_padded_with_the_mean_and_cropped() -> None:
    network, x = Small(), image(45, 75)
    padded = F.pad(x, (0, 5, 0, 3))
    plain = F.interpolate(network.logits(padded), (48, 80), mode="bilinear", align_corners=False)[
        ..., :45, :75
    ]
    torch.testing.assert_close(network(x), plain)


def test_resized_is_the_image_at_another_size_and_its_logits_brought_back() -> None:
    network, x = Small(), image(64, 96)
    small = F.interpolate(x, (32, 48), mode="bilinear", align_corners=False)
    plain = F.interpolate(network(small), (64, 96), mode="bilinear", align_corners=False)
    strips = inference_modes.resized(0.5)(network, x)
    torch.testing.assert_close(strips.full(), plain)
    torch.testing.assert_close(
        torch.cat([strips.rows(top, top + 16) for top in range(0, 64, 16)], 2), plain
    )


def test_flip_is_the_mean_of_two_softmaxes() -> None:
    network, x = Small(), image()
    plain = (network(x).softmax(1) + network(x.flip(-1)).flip(-1).softmax(1)) / 2
    torch.testing.assert_close(inference_modes.flip()(network, x).full(), plain)


def test_flip_of_a_symmetric_network_changes_nothing() -> None:
    network, x = (
        Small(),
        image(48, 81),
    )  # an odd width, so that stride 4 samples the mirrored image at the mirrored places
    with torch.no_grad():
        weight = network.classifier.weight
        weight.copy_((weight + weight.flip(-1)) / 2)
    network.multiple = 1
    network.align_corners = True
    torch.testing.assert_close(inference_modes.flip()(network, x).full(), network(x).softmax(1))


def test_multiscale_with_flip_averages_each_scale_and_its_mirror_image_alike() -> None:
    network, x = Small(), image(64, 96)
    votes = [
        inference_modes.resized(scale)(network, x.flip(-1) if mirrored else x).full().softmax(1)
        for scale in (0.5, 1.0)
        for mirrored in (0, 1)
    ]
    plain = sum(vote.flip(-1) if index % 2 else vote for index, vote in enumerate(votes)) / 4
    # The mean at each scale is rescaled as probabilities, so scale 1, where nothing is rescaled, is compared exactly.
    torch.testing.assert_close(
        inference_modes.mode("multiscale:1+flip")(network, x).full(),
        (votes[2] + votes[3].flip(-1)) / 2,
    )
    assert (
        inference_modes.mode("multiscale:0.5,1+flip")(network, x).full() - plain
    ).abs().max() < 0.1


def test_slide_with_one_window_is_whole() -> None:
    network, x = Small(), image()
    torch.testing.assert_close(
        inference_modes.slide((48, 80))(network, x).full(), inference_modes.whole(network, x).full()
    )
    torch.testing.assert_close(
        inference_modes.slide((100, 100))(network, x).full(),
        inference_modes.whole(network, x).full(),
    )


def test_slide_averages_overlapping_windows_as_the_slow_loop_does() -> None:
    network, x = Small(), image(56, 88)
    total, count = torch.zeros(1, 5, 56, 88), torch.zeros(56, 88)
    for top in (0, 20, 24):
        for left in (0, 24, 48, 56):
            total[..., top : top + 32, left : left + 32] += network(
                x[..., top : top + 32, left : left + 32]
            )
            count[top : top + 32, left : left + 32] += 1
    strips = inference_modes.slide((32, 32), (20, 24))(network, x)
    torch.testing.assert_close(strips.full(), total / count)
    torch.testing.assert_close(
        torch.cat([strips.rows(top, min(top + 9, 56)) for top in range(0, 56, 9)], 2), total / count
    )


def test_windows_are_two_thirds_of_a_window_apart_unless_told() -> None:
    """Rounded up, as in tool/test.py of hszhao/semseg (stride_rate=2/3)."""
    network, x = Small(), image(56, 88)
    plain = inference_modes.mode("slide:32x40")(network, x).full()
    told = inference_modes.mode("slide:32x40/22x27")(network, x).full()
    torch.testing.assert_close(plain, told)
    assert not torch.allclose(plain, inference_modes.mode("slide:32x40/16x20")(network, x).full())


@pytest.mark.parametrize(
    ("side", "window", "step"), [(56, 32, 20), (64, 32, 32), (33, 32, 8), (32, 32, 8), (100, 7, 3)]
)
def test_windows_cover_everything_and_end_at_the_border(side: int, window: int, step: int) -> None:
    tops = inference_modes.starts(side, window, step)
    assert tops[0] == 0 and tops[-1] == side - window
    assert sorted(set(tops)) == tops
    assert all(later - earlier <= step for earlier, later in pairwise(tops))


def test_modes_nest_by_name() -> None:
    network, x = Small(), image(64, 96)
    named = inference_modes.mode("resized:0.5+flip")(network, x).full()
    torch.testing.assert_close(
        named, inference_modes.resized(0.5, inference_modes.flip())(network, x).full()
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resized",
        "resized:x",
        "resized:0",
        "resized:0.0",
        "slide:769",
        "slide:0x0",
        "whole:3",
        "multiscale:1;2",
        "multiscale:1,0",
        "flip+slid:3x3",
    ],
)
def test_a_mode_that_does_not_exist_is_refused_with_those_that_do(text: str) -> None:
    with pytest.raises(ValueError, match=r"no inference mode; there are whole"):
        inference_modes.mode(text)


def test_a_stride_beyond_its_window_is_refused() -> None:
    with pytest.raises(ValueError, match="would skip pixels"):
        inference_modes.mode("slide:32x32/33x32")


class Valid(SegmentationModule):
    """A network without padding and with a pooling: sides are 2 more than a multiple of 4, and 3 are lost."""

    margin = 3
    multiple = 2

    def __init__(self) -> None:
        super().__init__(num_classes=4)
        self.first = nn.Conv2d(3, 6, 3)
        self.deep = nn.Conv2d(6, 6, 3)
        self.classifier = nn.Conv2d(6, 4, 1)

    def valid_side(self, side: int) -> int:
        return side + side % 2

    def features(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(image).relu(), 2)
        return F.interpolate(self.deep(x), scale_factor=2, mode="nearest")


def slowly_mirrored(x: Tensor, margin: int, height: int, width: int) -> Tensor:
    """Every pixel of a frame looked up one by one."""

    def place(at: int, length: int) -> int:
        while not 0 <= at < length:
            at = -at if at < 0 else 2 * (length - 1) - at
        return at

    rows = [place(at - margin, x.shape[-2]) for at in range(height)]
    columns = [place(at - margin, x.shape[-1]) for at in range(width)]
    return torch.stack([torch.stack([x[..., r, c] for c in columns], -1) for r in rows], -2)


@pytest.mark.parametrize("size", [(12, 20), (9, 13), (3, 2), (1, 5)])
def test_a_network_with_a_margin_sees_the_image_mirrored_around_it(size: tuple[int, int]) -> None:
    network, x = Valid(), image(*size)
    height, width = (side + side % 2 + 6 for side in size)
    framed = slowly_mirrored(x, 3, height, width) if min(size) > 1 else network.padded(x)
    assert torch.equal(network.padded(x), framed)
    plain = network.logits(framed)[..., : size[0], : size[1]]
    assert torch.equal(network(x), plain)
    assert torch.equal(network.strips(x).full(), plain)


@pytest.mark.parametrize("tile", [(8, 8), (6, 10), (7, 9), (40, 64)])
def test_tiles_say_what_the_network_says_of_the_whole_image(tile: tuple[int, int]) -> None:
    network, x = Valid(), image(31, 45)
    found = inference_modes.tiles(tile)(network, x)
    assert found.size == (31, 45)
    torch.testing.assert_close(found.full(), network(x))
    torch.testing.assert_close(found.rows(5, 22), network(x)[..., 5:22, :])


def test_tiles_that_left_the_pooling_grid_would_differ() -> None:
    """What the mode has to get right: one pixel off the grid is another pooling."""
    network, x = Valid(), image(31, 45)
    shifted = network(x[..., 1:, :])
    assert (shifted - network(x)[..., 1:, :]).abs().max() > 1e-3


def test_the_label_of_a_training_crop_is_cut_by_the_margin() -> None:
    network, x = Valid(), image(16, 20)
    label = torch.randint(4, (1, 16, 20))
    cut = label[:, 3:-3, 3:-3]
    expected = F.cross_entropy(network.logits(x), cut)
    torch.testing.assert_close(network.losses((x, label.to(torch.uint8)))["main"], expected)


def test_tiles_come_last_among_modes() -> None:
    with pytest.raises(ValueError, match="comes last"):
        inference_modes.mode("tiles:8x8+flip")
    network, x = Valid(), image(31, 45)
    straight = network(x).softmax(1)
    turned = network(x.flip(-1)).flip(-1).softmax(1)
    found = inference_modes.mode("flip+tiles:8x8")(network, x).full()
    torch.testing.assert_close(found, (straight + turned) / 2)


def test_the_class_of_a_pixel_is_the_first_of_equals() -> None:
    logits = torch.randint(4, (2, 19, 12, 40)).float()  # ties nearly everywhere
    logits[0, :, 0, 0] = torch.nan
    logits[0, 3, 0, 1] = torch.inf
    expected = torch.from_numpy(logits.numpy().argmax(1))
    assert torch.equal(inference_modes.most_likely_classes(logits).long(), expected)


# --- shift-and-stitch


class Pooling(SegmentationModule):
    """Two blocks and a classifier at 1/4; or evaluated densely, where the whole field is inside."""

    def __init__(self) -> None:
        super().__init__(num_classes=5)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.classifier = nn.Conv2d(6, 5, 1)

    def features(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(image).relu(), 2)
        return F.max_pool2d(self.second(x).relu(), 2)

    def dense(self, image: Tensor) -> Tensor:
        """Strides are traded for dilation, and nothing is padded: it ends 3 and 6 pixels inside."""
        x = F.conv2d(image, self.first.weight, self.first.bias)
        x = F.max_pool2d(x.relu(), 2, stride=1)
        x = F.conv2d(x, self.second.weight, self.second.bias, dilation=2)
        x = F.max_pool2d(x.relu(), 2, stride=1, dilation=2)
        return self.classifier(x)


@pytest.mark.parametrize("align_corners", [False, True])
def test_stitched_shifts_are_dense_evaluation_of_the_same_network(align_corners: bool) -> None:
    """A window of 4 pixels that begins at p stands for p + 1, or for p where corners are aligned."""
    network = Pooling().eval()
    network.align_corners = align_corners
    x = image(37, 50)
    with torch.no_grad():
        stitched = inference_modes.mode("stitch:4")(network, x).full()
        dense = network.dense(x)
    assert stitched.shape == (1, 5, 37, 50) and dense.shape == (1, 5, 37 - 9, 50 - 9)
    first = 3 + (0 if align_corners else 1)
    inside = stitched[..., first : first + 28, first : first + 41]
    torch.testing.assert_close(inside, dense)
    assert not torch.allclose(network(x)[..., first : first + 28, first : first + 41], dense)


def test_stitched_shifts_take_their_rows_on_demand_and_nest_in_other_modes() -> None:
    network, x = Small().eval(), image(21, 30)
    strips = inference_modes.mode("stitch:4")(network, x)
    blocks = [strips.rows(top, min(top + 8, 21)) for top in range(0, 21, 8)]
    assert torch.equal(torch.cat(blocks, 2), strips.full())
    mirrored = inference_modes.mode("stitch:4")(network, x.flip(-1)).full().flip(-1)
    flipped = inference_modes.mode("flip+stitch:4")(network, x).full()
    torch.testing.assert_close(flipped, (strips.full().softmax(1) + mirrored.softmax(1)) / 2)
    with pytest.raises(ValueError, match="stitch:4 comes last"):
        inference_modes.mode("stitch:4+flip")


class Upsampling(Small):
    """It enlarges its logits itself."""

    def decode(self, features: Tensor) -> Tensor:
        return F.interpolate(super().decode(features), scale_factor=4, mode="bilinear")


def test_of_a_network_that_upsamples_inside_each_shift_gives_every_stride_th_pixel() -> None:
    network, x = Upsampling().eval(), image(18, 27)
    stitched = inference_modes.mode("stitch:4")(network, x).full()
    for row, column in ((0, 0), (5, 9), (17, 26), (8, 11)):
        down, right = -(row - 1) % 4, -(column - 1) % 4
        shifted = F.pad(x, (right, 5 - right, down, 6 - down))
        expected = network(shifted)[..., row + down, column + right]
        torch.testing.assert_close(stitched[..., row, column], expected)


def test_another_stride_than_the_networks_is_refused_with_its_own() -> None:
    with pytest.raises(ValueError, match=r"has 12x22; give its own stride, such as stitch:4"):
        inference_modes.mode("stitch:2")(Small(), image(45, 81))
