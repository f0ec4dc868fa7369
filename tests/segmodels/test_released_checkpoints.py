"""Tests of the authors' checkpoints: their logits and training step, and errors for wrong files.

The weights are made from names alone.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import segmodels
from experiments.results.reference import weights_from_names
from segmodels.released_checkpoints import layouts
from tests.support import inputs_from_names
from tests.support.checkpoints import layout, state
from tests.support.paths import REFERENCE

HERE = sorted(
    file.name.removesuffix(".json.gz") for file in (REFERENCE / "released").glob("*.json.gz")
)
# By hand here; every layout by the command that makes the table of them (tests/test_fidelity.py)
LAYOUTS = ("bisenet_x39_torchseg", "bisenet_r18_speed_torchseg")


def test_every_layout_that_a_paper_names_is_held_against_the_authors_numbers() -> None:
    assert sorted(layouts()) == HERE


def test_opening_an_authors_checkpoint_draws_no_weights() -> None:
    name = "bisenet_x39_speed_torchseg"
    given = state(name)
    before = torch.get_rng_state()
    segmodels.from_released(name, given)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_released_network_gives_the_authors_logits(name: str) -> None:
    golden = np.load(REFERENCE / "released" / f"{name}.npz")
    module = segmodels.from_released(name, state(name))
    image = torch.from_numpy(
        weights_from_names.make_input(str(golden["input_name"]), tuple(golden["input_shape"]))
    )
    classes_alone = len(golden["main_shape"]) == 2  # a classifier
    whole = classes_alone or tuple(golden["main_shape"][-2:]) == tuple(image.shape[-2:])
    logits = module(image) if whole else module.logits(image)
    assert tuple(logits.shape) == tuple(golden["main_shape"])
    logits.sum().backward()
    assert (
        sum(p.numel() for p in module.parameters() if p.grad is not None)
        == layout(name)["params_inference"]
    )
    step = int(golden["stride"])
    sample = (
        logits.detach().numpy()[:, ::step]
        if classes_alone
        else logits.detach().numpy()[:, :, ::step, ::step]
    )
    limit = max(
        20 * float(golden["max_abs_diff_vs_float64"]), 2e-5 * float(np.abs(golden["main"]).max())
    )
    assert np.abs(sample - golden["main"]).max() <= limit


@pytest.mark.parametrize("name", LAYOUTS)
def test_auxiliary_outputs_and_another_size_are_the_authors_too(name: str) -> None:
    """At the size that the authors' code was also run at, which 32 does not divide."""
    module = segmodels.from_released(name, state(name))
    for which in ("", "__b"):
        golden = np.load(REFERENCE / "released" / f"{name}{which}.npz")
        image = torch.from_numpy(
            weights_from_names.make_input(str(golden["input_name"]), tuple(golden["input_shape"]))
        )
        with torch.no_grad():
            outputs = (
                {"main": module(image)} if len(golden["main_shape"]) == 2 else module.outputs(image)
            )
        agrees(at_size_of(outputs["main"], golden["main_shape"], module), golden, "main")
        assert {key.split("/")[1] for key in golden.files if key.startswith("aux/")} == set(
            layout(name)["aux_names"]
        )
        for theirs, ours in layout(name)["aux_names"].items():
            logits = at_size_of(
                outputs["main" if ours == "log_softmax(main)" else ours],
                golden[f"aux/{theirs}/shape"],
                module,
            )
            agrees(
                logits.log_softmax(1) if ours == "log_softmax(main)" else logits,
                golden,
                f"aux/{theirs}",
            )


def at_size_of(logits: torch.Tensor, shape: np.ndarray, module: torch.nn.Module) -> torch.Tensor:
    """Some of the authors' networks enlarge their outputs themselves, by a whole factor."""
    if tuple(logits.shape) == tuple(shape):
        return logits
    return F.interpolate(
        logits, tuple(shape[-2:]), mode="bilinear", align_corners=module.align_corners
    )


def agrees(logits: torch.Tensor, golden: dict, output: str) -> None:
    if output == "main":
        steps, want = (
            [slice(None, None, int(golden["stride"]))] * max(1, logits.ndim - 2),
            golden["main"],
        )
        sample = logits[(..., *steps)].numpy()
    else:
        want = golden[f"{output}/sample"]
        sample = logits.flatten()[:: int(golden[f"{output}/sample_flat_stride"])][
            : len(want)
        ].numpy()
    limit = max(20 * float(golden["max_abs_diff_vs_float64"]), 2e-5 * float(np.abs(want).max()))
    assert np.abs(sample - want).max() <= limit, output


def parameters_under(prefix: str, name: str) -> int:
    entries = [
        (key, shape)
        for key, shape, _ in layout(name)["entries"]
        if key == prefix or key.startswith(f"{prefix}.")
    ]
    return sum(
        int(np.prod(shape))
        for key, shape in entries
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )


@pytest.mark.parametrize("name", HERE)
def test_what_is_not_here_of_the_authors_parameters_is_named_and_counted(name: str) -> None:
    unused = layout(name)["unused"]
    assert {part: parameters_under(part, name) for part in unused} == {
        part: count for part, (count, _) in unused.items()
    }
    assert all(reason for _, reason in unused.values())
    released = layouts()[name]
    classes = next(shape[0] for key, shape, _ in layout(name)["entries"] if key == released.classes)
    ours = sum(each.numel() for each in released.build(classes, "meta").parameters())
    assert ours == layout(name)["params_total"] - sum(count for count, _ in unused.values())


def test_a_wrong_activation_would_be_seen() -> None:
    """The limit above is sharp: one missing ReLU is hundreds of times beyond it."""
    name = "bisenet_x39_torchseg"
    golden = np.load(REFERENCE / "released" / f"{name}.npz")
    module = segmodels.from_released(name, state(name))
    module.fusion.conv[2] = torch.nn.Identity()
    image = torch.from_numpy(
        weights_from_names.make_input(str(golden["input_name"]), tuple(golden["input_shape"]))
    )
    with torch.no_grad():
        sample = module(image).numpy()[:, :, :: int(golden["stride"]), :: int(golden["stride"])]
    assert np.abs(sample - golden["main"]).max() > 2000 * float(golden["max_abs_diff_vs_float64"])


def test_one_training_step_of_bisenet_is_the_authors_in_float64() -> None:
    """Loss terms, gradients and batch-norm statistics: what an evaluation cannot see."""
    name = "bisenet_r18_torchseg"
    case = json.loads((REFERENCE / "steps" / "cases.json").read_text())[name]
    golden = np.load(REFERENCE / "steps" / f"{name}.npz")
    module = segmodels.from_released(name, state(name)).double().train()
    made = inputs_from_names.build({"label": case["inputs"]["label"]})
    image = torch.from_numpy(
        weights_from_names.make_input(
            case["inputs"]["image"]["name"], tuple(case["inputs"]["image"]["shape"])
        )
    ).double()
    terms = module.losses((image, torch.from_numpy(made["label"])))
    authors = {"auxiliary1": "aux0_x16", "auxiliary2": "aux1_x8", "main": "main"}
    for ours, theirs in authors.items():
        assert terms[ours].item() == pytest.approx(case["terms"][theirs], rel=1e-9)
    sum(terms.values()).backward()
    released = layouts()[name]
    for theirs, facts in case["gradients"].items():
        (ours,) = released.renamed({theirs: torch.empty(0)})
        gradient = module.get_parameter(ours).grad.flatten()[:: facts["stride"]].numpy()
        np.testing.assert_allclose(
            gradient, golden[f"grad/{theirs}/sample"].ravel(), rtol=0, atol=1e-6 * facts["max_abs"]
        )


def test_the_usual_wrappers_and_prefixes_are_recognized(tmp_path: Path) -> None:
    name = "bisenet_x39_torchseg"
    plain = state(name)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in plain.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "released.pth")
    one, two = (
        segmodels.from_released(name, plain),
        segmodels.from_released(name, str(tmp_path / "released.pth")),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values())
    )


def test_a_trainer_that_saved_its_loss_beside_its_model_is_recognized() -> None:
    plain = state("ddrnet23_slim")
    saved = {f"model.{key}": value for key, value in plain.items()} | {
        "loss.criterion.weight": torch.ones(19)
    }
    module = segmodels.from_released("ddrnet23_slim", saved)
    assert torch.equal(
        module(torch.ones(1, 3, 64, 64)),
        segmodels.from_released("ddrnet23_slim", plain)(torch.ones(1, 3, 64, 64)),
    )


def test_the_class_count_is_read_from_the_tensors() -> None:
    name = "bisenet_x39_torchseg"
    given = state(name)
    for head in range(3):
        for kind in ("weight", "bias"):
            given[f"heads.{head}.conv_1x1.{kind}"] = given[f"heads.{head}.conv_1x1.{kind}"][:11]
    assert segmodels.from_released(name, given).num_classes == 11


def test_a_wrong_file_is_told_apart_and_the_nearest_layout_named() -> None:
    with pytest.raises(ValueError, match="it looks like bisenet_x39"):
        segmodels.from_released("bisenet_r18_torchseg", state("bisenet_x39_torchseg"))
    with pytest.raises(ValueError, match="did you mean bisenet_r18_torchseg"):
        segmodels.from_released("bisenet_r18_torchsegg", {})


class Command:
    """Pickled, it would run a command of the system when it is read."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __reduce__(self) -> tuple:
        return os.system, (self.words,)


def test_a_file_that_holds_code_or_nonsense_is_not_read(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pth")
    torch.save({"model": Command(f"touch {tmp_path / 'ran'}")}, tmp_path / "command.pth")
    (tmp_path / "nonsense.pth").write_bytes(b"nonsense")
    for name in ("code", "command"):
        with pytest.raises(ValueError, match=rf"{name}\.pth holds more than tensors"):
            segmodels.from_released("bisenet_x39_torchseg", tmp_path / f"{name}.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match=r"nonsense\.pth is not a checkpoint"):
        segmodels.from_released("bisenet_x39_torchseg", tmp_path / "nonsense.pth")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*missing\.pth"):
        segmodels.from_released("bisenet_x39_torchseg", tmp_path / "missing.pth")


# --- with other options than the row's


def test_an_authors_network_is_evaluated_with_another_option_than_its_row() -> None:
    weights = state("emanet_r50")
    image = torch.from_numpy(weights_from_names.make_input("options", (1, 3, 65, 97)))
    row = segmodels.experiment("emanet/resnet50").but(model={"eval_iterations": 5})
    wanted = row.build(num_classes=21).eval()
    own = segmodels.from_released("emanet_r50", weights)
    wanted.load_state_dict(own.state_dict())
    found = segmodels.from_released("emanet_r50", weights, model={"eval_iterations": 5})
    with torch.no_grad():
        assert torch.equal(found.logits(image), wanted.logits(image))
        assert not torch.equal(found.logits(image), own.logits(image))
    assert found.identity.evaluated_with == {"eval_iterations": 5}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (LAYOUTS[0], {"amr": False}, "did you mean arm"),
        (LAYOUTS[0], {"arm": False}, "model.arm=False makes another network than the one in"),
        (LAYOUTS[0], {"arm": 1}, "model.arm is 1; it takes True or False"),
        ("mmseg_bisenetv2", {"alpha": 2.0}, "is no row of a paper and takes no options; leave out"),
    ],
)
def test_options_that_an_authors_network_cannot_take_are_refused(
    name: str, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        segmodels.from_released(name, state(name), model=options)
