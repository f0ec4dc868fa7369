"""Tests of checkpoints: a loaded network is the trained one, and errors are one sentence.

They also check the report of layers that start anew.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import segmodels
from datamodules.labels import CAMVID, CITYSCAPES
from segmodels.module import Normalization, SegmentationModule
from segmodels.own_checkpoints import REMEDY, class_tensors, from_checkpoint, start_from
from segmodels.paper import fits
from segmodels.parts.weight_files import COUNTER
from tests.support.checkpoints import BAD, ROW, built, content_of, written
from tests.support.distinct import small

PAPERS = segmodels.papers()
MAIN_ROWS = [f"{name}/{paper.main}" for name, paper in PAPERS.items()]
OTHER_ROWS = [
    f"{name}/{row}" for name, paper in PAPERS.items() for row in paper.rows if row != paper.main
]
ROWS = MAIN_ROWS + [pytest.param(row, marks=pytest.mark.catalogue) for row in OTHER_ROWS]


def trained(folder: Path, channels_last: bool) -> tuple[Path, SegmentationModule]:
    """Two steps of Lightning's own loop, and the checkpoint that it writes."""
    module = built(labels=CAMVID, lr=0.01).train()
    module.normalization = Normalization(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), order="BGR")
    if channels_last:
        module.to(memory_format=torch.channels_last)
    batch = (
        torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8),
        torch.randint(11, (2, 64, 64), dtype=torch.uint8),
    )
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer, batches = (
        Trainer(accelerator="cpu", max_epochs=1, **quiet),
        DataLoader([batch, batch], batch_size=None),
    )
    trainer.fit(module, batches, batches)
    trainer.save_checkpoint(folder / "trained.ckpt")
    return folder / "trained.ckpt", module.eval()


def bits(module: SegmentationModule, image: Tensor, half: bool) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return module(image)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_checkpoint_gives_back_the_trained_network_bit_for_bit(
    tmp_path: Path, channels_last: bool
) -> None:
    file, module = trained(tmp_path, channels_last)
    back = from_checkpoint(file)
    image = torch.randint(256, (1, 3, 75, 101), dtype=torch.uint8)
    assert all(
        torch.equal(tensor, back.state_dict()[name]) for name, tensor in module.state_dict().items()
    )
    for half in (False, True):
        assert torch.equal(bits(back, image, half), bits(module, image, half))


def test_a_checkpoint_gives_back_recipe_normalization_classes_and_steps(tmp_path: Path) -> None:
    file, module = trained(tmp_path, channels_last=True)
    back = from_checkpoint(file)
    assert not any(each.training for each in back.modules())
    assert (back.recipe, back.normalization, back.num_classes) == (
        module.recipe,
        module.normalization,
        11,
    )
    assert back.identity == replace(module.identity, iterations=2)
    assert back.identity.classes == list(CAMVID.names)
    assert [tuple(color) for color in back.identity.palette] == list(CAMVID.palette)


def test_a_run_leaves_checkpoints_of_tensors_and_plain_values(smoke_run: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        content = torch.load(smoke_run / "checkpoints" / name, weights_only=True)
        module, config = (
            from_checkpoint(smoke_run / "checkpoints" / name),
            json.loads((smoke_run / "config.json").read_text()),
        )
        assert all(
            torch.equal(tensor, content["state_dict"][key])
            for key, tensor in module.state_dict().items()
        )
        assert json.loads(json.dumps(asdict(module.recipe))) == config["recipe"]
        assert module.identity.iterations == content["global_step"]


@pytest.mark.parametrize("address", ROWS)
def test_every_row_comes_back_from_its_checkpoint(address: str, tmp_path: Path) -> None:
    module = small(segmodels.experiment(address)).build(num_classes=5)
    torch.save(content_of(module, steps=12), tmp_path / "row.ckpt")
    back = from_checkpoint(tmp_path / "row.ckpt")
    (tmp_path / "row.ckpt").unlink()  # 35 of them fill a disk
    assert type(back) is type(module) and back.num_classes == 5
    assert all(
        torch.equal(tensor, back.state_dict()[name]) for name, tensor in module.state_dict().items()
    )
    assert (back.recipe, back.normalization, back.identity.experiment) == (
        module.recipe,
        module.normalization,
        address,
    )


def test_opening_a_checkpoint_draws_no_weights(tmp_path: Path) -> None:
    """It would take seconds, and move on the random numbers of whoever opens it."""
    written(tmp_path / "last.ckpt")
    before = torch.get_rng_state()
    from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_without_batch_counters_is_read(tmp_path: Path) -> None:
    content = content_of(module := built())
    for name in [name for name in content["state_dict"] if name.endswith(COUNTER)]:
        del content["state_dict"][name]
    torch.save(content, tmp_path / "old.ckpt")
    image = torch.randint(256, (1, 3, 33, 65), dtype=torch.uint8)
    assert torch.equal(
        bits(from_checkpoint(tmp_path / "old.ckpt"), image, False), bits(module, image, False)
    )


def test_tensors_of_an_earlier_name_are_told_beside_those_of_today_with_what_to_do(
    tmp_path: Path,
) -> None:
    """A layer of Fast-SCNN's pyramid pooling, as the class had it before PSPNet's took its place."""
    content = content_of(segmodels.experiment("fastscnn").build(3))
    earlier = {
        name.replace(".levels.0.1.", ".bins.0.1."): tensor
        for name, tensor in content["state_dict"].items()
    }
    torch.save(content | {"state_dict": earlier}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError) as refusal:
        from_checkpoint(tmp_path / "last.ckpt")
    place = "global_features.9"
    assert (
        f"it lacks 5 tensors ({place}.levels.0.1.0.weight, {place}.levels.0.1.1.weight, ...); "
        f"it has beyond the network's 5 tensors ({place}.bins.0.1.0.weight, "
    ) in str(refusal.value)
    assert str(refusal.value).endswith(REMEDY) and "config.json" in REMEDY


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint_of_this_code_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    write, words = BAD[kind]
    file = tmp_path / "some file.ckpt"
    write(file)
    with pytest.raises(ValueError) as refusal:
        from_checkpoint(file)
    assert str(refusal.value).startswith(str(file)) and words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == [file]  # nothing in it was run


def test_a_checkpoint_of_an_older_code_says_where_to_read_it(tmp_path: Path) -> None:
    BAD["other row"][0](tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="read it with the commit that its run was made at"):
        from_checkpoint(tmp_path / "old.ckpt")


# --- with other options than it was trained with


@pytest.fixture(scope="module")
def emanet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SegmentationModule]:
    """A network whose eval_iterations, 3 unless told, leave its weights alone."""
    file = tmp_path_factory.mktemp("emanet") / "last.ckpt"
    return file, written(file, address="emanet/resnet50", labels=CAMVID)


def test_a_network_is_evaluated_with_another_option_than_it_was_trained_with(
    emanet: tuple[Path, SegmentationModule],
) -> None:
    file, module = emanet
    image = torch.randint(256, (1, 3, 65, 97), dtype=torch.uint8)
    plain = bits(from_checkpoint(file), image, False)
    found = segmodels.from_checkpoint(file, model={"eval_iterations": 5})
    five = segmodels.experiment("emanet/resnet50").but(model={"eval_iterations": 5}).build(11)
    five.load_state_dict(module.state_dict())
    five.normalization = module.normalization
    wanted = bits(five.eval(), image, False)
    assert torch.equal(bits(found, image, False), wanted)
    assert not torch.equal(wanted, plain)
    assert found.identity.evaluated_with == {"eval_iterations": 5}
    assert found.identity.model["eval_iterations"] == 5
    assert found.identity.iterations == 7
    assert (found.recipe, found.num_classes) == (module.recipe, 11)


def test_options_that_a_network_was_trained_with_are_no_others(
    emanet: tuple[Path, SegmentationModule],
) -> None:
    file, _ = emanet
    found = from_checkpoint(file, model={"eval_iterations": 3, "lambda_": 1, "depth": 50})
    assert found.identity.evaluated_with == {}
    assert from_checkpoint(file).identity.evaluated_with == {}


WRONG_OPTIONS = [
    ({"eval_iteration": 5}, "no option of EMANet is called eval_iteration; did you mean eval_iter"),
    ({"num_classes": 5}, "no option of EMANet is called num_classes"),
    ({"eval_iterations": "5"}, "model.eval_iterations is '5'; it takes a whole number"),
    ({"eval_iterations": 5.0}, "model.eval_iterations is 5.0; it takes a whole number"),
    ({"eval_iterations": True}, "model.eval_iterations is True; it takes a whole number"),
    ({"lambda_": "much"}, "model.lambda_ is 'much'; it takes a number"),
    ({"kernel": "cubic"}, "model.kernel is 'cubic'; it takes one of exponential, gaussian, inner"),
    ({"eval_iterations": 0}, "model.eval_iterations is 0; it takes a whole number from 1 up"),
    ({"bases": 32}, "model.bases=32 makes another network than the one in"),
    ({"depth": 101}, "give options that leave its weights as they are, or train that network"),
]


@pytest.mark.parametrize(("options", "words"), WRONG_OPTIONS, ids=lambda each: str(each)[:30])
def test_options_that_the_weights_cannot_be_evaluated_with_are_refused(
    options: dict, words: str, emanet: tuple[Path, SegmentationModule]
) -> None:
    with pytest.raises(ValueError) as refusal:
        from_checkpoint(emanet[0], model=options)
    sentence = str(refusal.value)
    assert words in sentence and str(emanet[0]) in sentence and "\n" not in sentence
    assert "cannot be built now" not in sentence  # nothing is wrong with the checkpoint


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (3, int, True),
        (0, int, False),
        (3.5, int, False),
        (True, int, False),
        (3, float, True),
        (0, float, True),
        (-0.5, float, False),
        (float("nan"), float, False),
        (float("inf"), float, False),
        (False, float, False),
        (True, bool, True),
        (1, bool, False),
        ("a", str, True),
        (None, int | None, True),
        ("a", int | None, False),
        ([1, 2], tuple[int, ...], True),
        ([1, 0], tuple[int, ...], False),
        ((1, "b"), tuple[int, ...], False),
        (4, tuple[int, ...], False),
        ("b", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
    ],
)
def test_a_value_is_of_the_type_that_a_constructor_asks_for(
    value: object, hint: object, right: bool
) -> None:
    assert fits(value, hint) is right


# --- starting from one


def state(module: SegmentationModule) -> dict[str, Tensor]:
    return {
        name: tensor.clone()
        for name, tensor in module.state_dict().items()
        if not name.endswith(COUNTER)
    }


def test_starting_from_the_same_network_takes_every_tensor(tmp_path: Path) -> None:
    other, module = written(tmp_path / "other.ckpt"), segmodels.experiment(ROW).build()
    said = start_from(module, tmp_path / "other.ckpt")
    assert all(torch.equal(tensor, state(other)[name]) for name, tensor in state(module).items())
    assert (
        said
        == f"{len(state(module))} of {len(state(module))} tensors from {tmp_path / 'other.ckpt'}"
    )


def test_starting_with_another_class_count_leaves_the_heads_as_they_were(tmp_path: Path) -> None:
    other, module = written(tmp_path / "other.ckpt"), segmodels.experiment(ROW).build(num_classes=4)
    before = state(module)
    said = start_from(module, tmp_path / "other.ckpt")
    heads = {name for name, tensor in before.items() if tensor.shape != state(other)[name].shape}
    assert heads == {
        f"{head}.1.{kind}"
        for head in ("classifier", "auxiliaries.0", "auxiliaries.1")
        for kind in ("weight", "bias")
    }
    assert all(
        torch.equal(tensor, before[name] if name in heads else state(other)[name])
        for name, tensor in state(module).items()
    )
    assert said.endswith("; start anew: auxiliaries.0.1, auxiliaries.1.1, classifier.1")


HEADS = ("classifier.1", "auxiliaries.0.1", "auxiliaries.1.1")


def naming(*classes: str) -> SegmentationModule:
    """A new network of the row for these classes."""
    module = segmodels.experiment(ROW).build(num_classes=len(classes))
    module.identity = replace(module.identity, classes=list(classes))
    return module


@pytest.mark.parametrize(
    ("ours", "taken", "new"),
    [
        (("dog", "car", "road"), {"car": "car", "road": "road"}, "; new classes: dog"),
        (("Traffic_Light", "sky"), {"Traffic_Light": "traffic light", "sky": "sky"}, ""),
        (tuple(reversed(CITYSCAPES.names)), {name: name for name in CITYSCAPES.names}, ""),
        (
            (*CITYSCAPES.names[:18], "dog"),
            dict.fromkeys(CITYSCAPES.names[:18]),
            "; new classes: dog",
        ),
    ],
    ids=["some", "other spelling", "other order", "one of as many is another"],
)
def test_heads_take_over_the_classes_of_the_same_names_and_no_others(
    ours: tuple[str, ...], taken: dict[str, str | None], new: str, tmp_path: Path
) -> None:
    other, module = written(tmp_path / "other.ckpt"), naming(*ours)
    before = state(module)
    said = start_from(module, tmp_path / "other.ckpt")
    for head in HEADS:
        for kind in ("weight", "bias"):
            after, theirs = (state(each)[f"{head}.{kind}"] for each in (module, other))
            for row, name in enumerate(ours):
                expected = before[f"{head}.{kind}"][row]
                if name in taken:
                    expected = theirs[CITYSCAPES.names.index(taken[name] or name)]
                assert torch.equal(after[row], expected)
    rest = [name for name in before if name.rpartition(".")[0] not in HEADS]
    assert all(torch.equal(state(module)[name], state(other)[name]) for name in rest)
    listed = [name for name in ours if name in taken]
    more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
    assert said == (
        f"{len(rest)} of {len(before)} tensors from {tmp_path / 'other.ckpt'}; "
        f"by their names the classes {', '.join(listed[:6])}{more} of {', '.join(sorted(HEADS))}{new}"
    )


def test_heads_of_as_many_classes_of_other_names_start_anew(tmp_path: Path) -> None:
    other, module = written(tmp_path / "other.ckpt"), naming(*map(str, range(19)))
    before = state(module)
    said = start_from(module, tmp_path / "other.ckpt")
    for name, tensor in state(module).items():
        kept = before if name.rpartition(".")[0] in HEADS else state(other)
        assert torch.equal(tensor, kept[name])
    assert said.endswith(f"; start anew: {', '.join(sorted(HEADS))}")


def test_a_tensor_that_is_as_long_as_the_classes_by_chance_is_no_head() -> None:
    module = segmodels.experiment(ROW).build(num_classes=64)
    chance = [name for name, each in state(module).items() if each.shape[:1] == (64,)]
    heads = {f"{head}.{kind}" for head in HEADS for kind in ("weight", "bias")}
    assert len(chance) > len(heads) and set(class_tensors(module)) == heads


LEFT_OUT = "; left out: " + ", ".join(
    f"auxiliaries.{head}.{layer}" for head in (0, 1) for layer in ("0.0", "0.1", "1")
)


def test_starting_says_which_tensors_of_the_checkpoint_have_no_place(tmp_path: Path) -> None:
    written(tmp_path / "other.ckpt")
    module = segmodels.experiment(ROW).but(model={"auxiliary_weight": 0.0}).build()
    said = start_from(module, tmp_path / "other.ckpt")
    count = len(state(module))
    assert said.startswith(f"{count} of {count} tensors from") and "start anew" not in said
    assert said.endswith(LEFT_OUT)


def test_another_network_is_no_start_and_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path / "other.ckpt")
    module = segmodels.experiment("bisenet/resnet18").build()
    before = state(module)
    with pytest.raises(
        ValueError,
        match=f"holds another network: only .* tensors fit BiSeNet .it was trained as {ROW}",
    ):
        start_from(module, tmp_path / "other.ckpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(module).items())


def test_a_network_of_the_same_names_but_other_widths_is_no_start() -> None:
    module = segmodels.experiment(ROW).build()
    wider = {
        name: torch.zeros(*(2 * side for side in tensor.shape))
        for name, tensor in state(module).items()
    }
    wider["classifier.1.bias"] = torch.zeros(19)
    with pytest.raises(ValueError, match=r"only 1 of \d+ tensors fit BiSeNet"):
        start_from(module, {"state_dict": wider}, "wider.ckpt")


def test_a_start_keeps_the_new_runs_recipe_and_normalization(tmp_path: Path) -> None:
    written(tmp_path / "other.ckpt", lr=0.125)
    module = segmodels.experiment(ROW).build()
    module.recipe = replace(module.recipe, lr=0.5)
    start_from(module, tmp_path / "other.ckpt")
    assert (module.recipe.lr, module.normalization) == (0.5, Normalization())


def test_a_missing_checkpoint_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        start_from(built(), tmp_path / "none.ckpt")
