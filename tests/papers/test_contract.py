"""Tests of the contract for every paper: the main row of each, or every row (`-m catalogue`)."""

import copy
import json
import re
from collections.abc import Callable, Hashable
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

import segmodels
from experiments.command_line.catalogue import catalogue, pretrained
from segmodels.deploy import settle_batch_norm
from segmodels.folding import fast_form
from segmodels.module import SegmentationModule
from segmodels.paper import (
    Published,
    changed,
    check_options,
    meta_network,
)
from segmodels.parts.losses import cross_entropy
from segmodels.recipe import recipe_from
from segmodels.released_checkpoints import layouts
from tests.support.distinct import small, trained_network

PAPERS = segmodels.papers()
MAIN_ROWS = [f"{name}/{paper.main}" for name, paper in PAPERS.items()]
OTHER_ROWS = [
    f"{name}/{row}" for name, paper in PAPERS.items() for row in paper.rows if row != paper.main
]
ROWS = MAIN_ROWS + [pytest.param(row, marks=pytest.mark.catalogue) for row in OTHER_ROWS]
LAYOUTS = layouts()
PORTS = [name for name, layout in LAYOUTS.items() if not isinstance(layout.network, str)]
STORED = catalogue()
CLASSES = 5
# Of crops to learn. With 4x4 weights, 64 pixels apart, fc6 sees nothing of a smaller image.
SIZES = {"deeplabv1/4x4": (128, 128)}


@pytest.fixture(scope="module", params=ROWS)
def address(request: pytest.FixtureRequest) -> str:
    """A row at a time, in all tests: its network is drawn once."""
    return request.param


@pytest.fixture(scope="module")
def drawn(address: str) -> SegmentationModule:
    return built(address)


@pytest.fixture(scope="module")
def kind(address: str) -> Hashable:
    return trained_network(segmodels.experiment(address))


@pytest.fixture
def module(
    kind: Hashable, once: Callable[[Hashable], bool], request: pytest.FixtureRequest
) -> SegmentationModule:
    """As it was drawn, whatever another test did with it; in training mode."""
    if not once(kind):
        pytest.skip("another row has a network that differs in numbers alone")
    return copy.deepcopy(request.getfixturevalue("drawn"))


def built(address: str) -> SegmentationModule:
    """Small, where a network's width is an option, and with numbers for class weights that only a data set tells."""
    row = small(segmodels.experiment(address))
    counted = isinstance(row.recipe.class_weights, str)
    recipe = {"class_weights": (1.0, 0.5, 2.0, 0.8, 1.5)} if counted else {}
    return row.but(recipe=recipe).build(num_classes=CLASSES)


def valid_size(module: SegmentationModule, height: int, width: int) -> tuple[int, int]:
    """The smallest size that the network takes and whose inside has so many pixels."""
    return tuple(module.valid_side(side + 2 * module.margin) for side in (height, width))


def crops(module: SegmentationModule, size: tuple[int, int] = (32, 64)) -> tuple[Tensor, Tensor]:
    """Two images whose classes can be told by color, with an ignored border."""
    height, width = valid_size(module, *size)
    coarse = torch.randint(CLASSES, (2, -(-height // 16), -(-width // 16)))
    label = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]
    colors = torch.linspace(-2, 2, CLASSES)[label]
    image = torch.stack([colors, -colors, colors**2], 1) + 0.1 * torch.randn(2, 3, height, width)
    border = module.margin + 3
    label[:, :border] = 255
    return image, label.to(torch.uint8)


def test_logits_come_at_the_image_size_for_odd_sizes_too(module: SegmentationModule) -> None:
    module.eval()
    for height, width in ((64, 96), (75, 101)):
        with torch.no_grad():
            logits = module(torch.randint(256, (1, 3, height, width), dtype=torch.uint8))
        assert logits.shape == (1, CLASSES, height, width)
        assert logits.isfinite().all()


def test_every_parameter_gets_a_gradient_but_those_named_with_a_reason(
    module: SegmentationModule,
) -> None:
    sum(module.losses(crops(module)).values()).backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert sorted(without) == sorted(module.without_gradient)


def test_outputs_and_losses_carry_the_same_names_and_main_is_the_logits(
    module: SegmentationModule,
) -> None:
    module.eval()
    image, label = crops(module)
    with torch.no_grad():
        outputs, terms = module.outputs(image), module.losses((image, label))
        assert torch.equal(outputs["main"], module.logits(image))
    assert "main" in terms
    assert all(term.ndim == 0 for term in terms.values())


def test_crops_without_a_label_give_zero_loss_and_finite_gradients(
    module: SegmentationModule,
) -> None:
    image, label = crops(module)
    loss = sum(module.losses((image, torch.full_like(label, 255))).values())
    loss.backward()
    assert loss.item() == 0
    reached = [
        parameter
        for name, parameter in module.named_parameters()
        if name not in module.without_gradient
    ]
    assert all(parameter.grad.isfinite().all() for parameter in reached)


def test_training_and_evaluation_return_the_same_kind_of_thing(module: SegmentationModule) -> None:
    image = crops(module)[0]
    with torch.no_grad():
        assert module.train().logits(image).shape == module.eval().logits(image).shape


@pytest.mark.slow
def test_the_fast_form_of_a_row_computes_its_logits(module: SegmentationModule) -> None:
    check_fast_form(module)


@pytest.mark.catalogue
@pytest.mark.parametrize("name", PORTS)
def test_the_fast_form_of_a_ports_network_computes_its_logits(name: str) -> None:
    """The network of any other layout is a row's, small or not."""
    network = LAYOUTS[name].build(CLASSES)
    if isinstance(network, SegmentationModule):  # not a classifier
        # VainF's Xception has a convolution without padding, 5 x 5 at a sixteenth of the size.
        check_fast_form(network, (85, 93) if "xception_vainf" in name else (45, 61))


def check_fast_form(module: SegmentationModule, size: tuple[int, int] = (45, 61)) -> None:
    """In float64, where rounding hides nothing, and at another size than that of the folding."""
    settle_batch_norm(module, (96, 96) if size != (45, 61) else (32, 64))
    module.double()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        logits = module(image)
        difference = (fast_form(module)(image) - logits).abs().max()
    assert difference <= 1e-10 * max(1, logits.abs().max())


def trained_label(module: SegmentationModule, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The pixels that the first loss compares, which may be fewer than the label has."""
    module.means = []
    with torch.no_grad():
        module.losses(batch)
    seen = [label for _, label, _ in module.means]
    module.means = None
    return seen[0] if seen else module.inside(batch[1])


@pytest.mark.slow
def test_two_fixed_crops_are_learned_by_heart_within_sixty_steps(
    address: str, module: SegmentationModule
) -> None:
    """The same for all: AdamW 1e-3, until the main cross-entropy is below half of its start."""
    batch = crops(module, SIZES.get(address, (32, 64)))
    label = trained_label(module, batch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    course = []
    for step in range(61):
        if step % 4 == 0:
            with torch.no_grad():
                course.append(
                    cross_entropy(
                        module.logits(batch[0]), label, align_corners=module.align_corners
                    ).item()
                )
            if course[-1] < 0.5 * course[0]:
                return
        optimizer.zero_grad()
        sum(module.losses(batch).values()).backward()
        optimizer.step()
    pytest.fail(f"cross-entropy only fell from {course[0]:.2f} to {min(course):.2f}")


def test_uint8_and_its_normalized_floats_give_the_same_logits_and_losses(
    module: SegmentationModule,
) -> None:
    module.eval()
    size = valid_size(module, 64, 64)
    image = torch.randint(256, (1, 3, *size), dtype=torch.uint8)
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (module.normalization.mean, module.normalization.std)
    )
    floats, label = (
        (image / 255 - mean) / std,
        torch.randint(CLASSES, (1, *size), dtype=torch.uint8),
    )
    with torch.no_grad():
        torch.testing.assert_close(module(image), module(floats))
        torch.testing.assert_close(module.losses((image, label)), module.losses((floats, label)))


def test_a_recipe_survives_the_way_to_json_and_back(address: str) -> None:
    recipe = segmodels.experiment(address).recipe
    assert recipe_from(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_parameter_groups_hold_every_parameter_once(module: SegmentationModule) -> None:
    grouped = [parameter for group in module.parameter_groups() for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(module.parameters()))


def test_a_deployed_network_holds_no_more_than_the_trained_one(address: str) -> None:
    """By the stored catalogue, whose numbers tests/test_command_line.py counts again."""
    name, _, row = address.partition("/")
    entry = STORED["papers"][name]["rows"][row]
    assert 0 < entry["inference_parameters"] <= entry["parameters"]


OWN = {part for part, _ in SegmentationModule(CLASSES).named_children()}  # the base class's


@pytest.mark.parametrize("name", [*ROWS, *LAYOUTS])
def test_no_submodule_bears_a_word_of_the_contract(name: str) -> None:
    """A method would hide it without an error: module.decode = nn.Identity() is never called. An
    attribute could not be set any more: module.scores = {...} after a validation."""
    if name in LAYOUTS:
        network = LAYOUTS[name].build(CLASSES, "meta")
    else:
        network = meta_network(segmodels.experiment(name), CLASSES)
    if not isinstance(network, SegmentationModule):
        return  # a classifier
    words = {*dir(type(network)), *vars(SegmentationModule(CLASSES))}
    assert [part for part, _ in network.named_children() if part in words and part not in OWN] == []


FOLLOWING = ("logits", "outputs", "losses", "forward", "strips", "at_size", "parameter_groups")


def test_no_paper_port_or_family_overrides_what_follows_from_its_words() -> None:
    networks = [row.network for paper in PAPERS.values() for row in paper.rows.values()]
    for layout in layouts().values():
        if not isinstance(layout.network, str):
            networks.append(type(layout.build(CLASSES, "meta")))
    for network in networks:
        for kind in network.__mro__:
            if issubclass(kind, SegmentationModule) and kind is not SegmentationModule:
                overridden = [word for word in FOLLOWING if word in vars(kind)]
                assert overridden == [], f"{kind.__name__} overrides {', '.join(overridden)}"


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_says_who_wrote_it_and_what_differs(name: str) -> None:
    paper = PAPERS[name]
    if name == "smp":  # a library's networks: no paper, nothing published
        assert all(not row.published for row in paper.rows.values())
        return
    assert paper.departures
    if name == "psanet":  # which never was on arXiv
        assert paper.arxiv is None
        return
    assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)


@pytest.mark.parametrize("name", PAPERS)
def test_a_figure_names_options_that_its_network_and_its_data_have(name: str) -> None:
    known = catalogue()["data"]
    for row in PAPERS[name].rows.values():
        for figure in row.published:
            assert isinstance(hash(figure), int)
            own = changed(row.network, row.model, dict(figure.model))
            check_options(row.network, own)
            assert own == dict(figure.model), "the row's own options go without saying"
            if figure.options:
                defaults = known[figure.data]["options"]
                assert all(value != defaults[key]["default"] for key, value in figure.options)


# BiSeNetV2, Fast-SCNN, LR-ASPP and U-Net are trained from scratch; a library's networks have no paper.
FROM_SCRATCH = ("bisenetv2", "fastscnn", "lraspp", "smp", "unet")


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_starts_from_imagenet_or_from_scratch_as_it_says(name: str) -> None:
    main = PAPERS[name].rows[PAPERS[name].main]
    module = meta_network(main)
    assert pretrained(main, module) is (name not in FROM_SCRATCH)
    assert not pretrained(replace(main, starts_from="scratch"), module)


def test_a_figure_is_stored_with_its_options_by_name() -> None:
    figure = Published(
        79.2, "voc", "val", "flip", "Table 5", (("output_stride", 8), ("rates", (6, 12))), ()
    )
    assert figure.as_dict() == {
        "miou": 79.2,
        "data": "voc",
        "split": "val",
        "protocol": "flip",
        "source": "Table 5",
        "model": {"output_stride": 8, "rates": [6, 12]},
        "options": {},
    }
    assert json.loads(json.dumps(figure.as_dict())) == figure.as_dict()


def test_an_unknown_paper_or_row_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean bisenet"):
        segmodels.experiment("bisenett")
    with pytest.raises(ValueError, match="did you mean no_arm"):
        segmodels.experiment("bisenet/no_amr")


def test_an_ablation_is_a_small_difference_and_claims_no_published_figure() -> None:
    main = segmodels.experiment("bisenet")
    ablation = main.but(model={"arm": False}, recipe={"lr": 0.5})
    assert (ablation.model["arm"], ablation.recipe.lr, ablation.published) == (False, 0.5, ())
    assert main.published
    assert ablation.recipe.crop == main.recipe.crop
