"""Tests of deployed networks in torch and ONNX files: the same numbers at one size or at any.

They have neither batch norm nor training heads.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

import segmodels
from experiments import export
from experiments.command_line.row_patterns import matching_rows
from segmodels import deploy, folding
from segmodels.module import SegmentationModule
from segmodels.own_checkpoints import from_checkpoint
from segmodels.paper import changed, experiment
from segmodels.parts.layers import AdaptiveAvgPool
from tests.support import checkpoints
from tests.support.distinct import deployed_network, logits_operations, small
from tests.support.extras import onnx
from tests.support.paths import ROOT

ROW = checkpoints.ROW
SIZE = (64, 96)
BATCH_NORM = torch.ops.aten.batch_norm.default
MAIN_ROWS = [f"{name}/{paper.main}" for name, paper in segmodels.papers().items()]


def settled(address: str = ROW) -> SegmentationModule:
    module = small(experiment(address)).build(num_classes=5)
    deploy.settle_batch_norm(module, SIZE)
    return module


def noise(height: int = SIZE[0], width: int = SIZE[1]) -> Tensor:
    return torch.randint(256, (1, 3, height, width), dtype=torch.uint8)


def differ(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


class Small(SegmentationModule):
    """A convolution and its norm."""

    def __init__(self) -> None:
        super().__init__(num_classes=4)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=1e-2)
        self.classifier = nn.Conv2d(4, 4, 1)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def logits(self, image: Tensor) -> Tensor:
        return self.classifier(self.norm(self.conv(image)))


class Padded(Small):
    """It pads to a multiple, averages over parts, and computes at an eighth of the size."""

    multiple = 16

    def __init__(self, pool: type[nn.Module] = AdaptiveAvgPool) -> None:
        super().__init__()
        self.pool = pool(3)

    def logits(self, image: Tensor) -> Tensor:
        x = self.norm(self.conv(F.avg_pool2d(image, 8)))
        return self.classifier(x + F.interpolate(self.pool(x), x.shape[-2:]))


class Mirrored(Small):
    """It loses a margin."""

    margin = 6

    def logits(self, image: Tensor) -> Tensor:
        return super().logits(image)[..., 6:-6, 6:-6]


class HighOrLow(Small):
    """It computes something else for images that are high, beyond the sizes compared."""

    def logits(self, image: Tensor) -> Tensor:
        logits = super().logits(image)
        return 2 * logits if image.shape[-2] > 400 else logits


class Placed(Small):
    """Each position of its map has a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 4, *deploy.COMPARED[0][1:]))

    def logits(self, image: Tensor) -> Tensor:
        return super().logits(image) + self.place


# --- in torch


@pytest.mark.parametrize("address", [ROW, "smp/unet_resnet34"])
def test_a_deployed_network_computes_the_same_without_a_batch_norm(address: str) -> None:
    """In float64, where rounding hides nothing."""
    module = settled(address).double()
    network, image = deploy.deployed(module, SIZE), module.normalized(noise()).double()
    assert not [node for node in network.graph.nodes if node.target is BATCH_NORM]
    with torch.no_grad():
        assert differ(network(image), module(image)) < 1e-12


def test_a_deployed_network_holds_the_weights_that_its_logits_need_and_no_others() -> None:
    module = settled()
    module.logits(torch.randn(1, 3, *SIZE)).sum().backward()
    needed = sum(
        each.numel() for each in module.parameters() if each.grad is not None and each.ndim == 4
    )
    held = sum(
        each.numel()
        for each in deploy.deployed(module, SIZE).state_dict().values()
        if each.ndim == 4
    )
    assert held == needed < sum(each.numel() for each in module.parameters() if each.ndim == 4)


def test_the_module_stays_as_it_was() -> None:
    module = settled().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    network = deploy.deployed(module, SIZE)
    for value in network.state_dict().values():
        value.zero_()
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_normalization_padding_and_argmax_are_inside_where_asked_for(size: tuple[int, int]) -> None:
    module, image = settled(), noise(*size)
    with torch.no_grad():
        label = deploy.deployed(module, size, uint8=True, argmax=True)(image)
        logits = module(image)
    assert (label.dtype, tuple(label.shape)) == (torch.uint8, (1, *size))
    assert (label != logits.argmax(1)).float().mean() < 1e-3
    assert deploy.clear_errors(logits, label, 1e-5 * logits.abs().max().item()) == 0


def test_another_size_is_refused_by_the_network_itself() -> None:
    with pytest.raises(AssertionError, match=r"image\.size\(\)\[2\] == 64"):
        deploy.deployed(Small(), SIZE)(torch.randn(1, 3, 32, 96))


# --- for any size


@pytest.mark.parametrize(("make", "argmax"), [(Padded, False), (Mirrored, True)])
def test_a_graph_for_any_size_computes_what_the_module_does(
    make: type[Small], argmax: bool
) -> None:
    module = make().eval()
    network = deploy.deployed(module, "any", uint8=argmax, argmax=argmax)
    assert not [node for node in network.graph.nodes if node.target is BATCH_NORM]
    for batch, height, width in [(1, 64, 96), (2, 33, 47), (1, 97, 131), (3, 201, 35), (1, 1, 5)]:
        image = torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            logits = module(image)
            output = network(image if argmax else module.normalized(image))
        if argmax:
            assert deploy.clear_errors(logits, output, 1e-5) == 0
        else:
            assert differ(output, logits) < 1e-5


@pytest.mark.parametrize("make", [HighOrLow, Placed])
def test_a_network_that_holds_for_some_sizes_only_is_refused_in_one_sentence(
    make: Callable[[], Small],
) -> None:
    with pytest.raises(ValueError, match="cannot be exported for any size; give one") as refused:
        deploy.deployed(make().eval(), "any")
    assert type(make()).__name__ in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("parts", [2, 6])
def test_averages_over_parts_are_those_of_adaptive_pooling(parts: int) -> None:
    """As they are exported, of maps with fewer rows than parts too."""
    pool = torch.export.export(
        AdaptiveAvgPool(parts).double(),
        (torch.zeros(2, 3, 7, 9, dtype=torch.float64),),
        dynamic_shapes=({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},),
    ).module()
    for height, width in [(2, 40), (7, 9), (12, 6), (13, 5), (31, 3)]:
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        assert torch.allclose(pool(x), F.adaptive_avg_pool2d(x, parts), rtol=0, atol=1e-12)


@onnx
@pytest.mark.parametrize("argmax", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_file_for_any_size_is_compared_with_the_module_at_six(
    tmp_path: Path, argmax: bool
) -> None:
    module = Padded().eval()
    verified = deploy.export_onnx(
        module, tmp_path / "a.onnx", "any", uint8=argmax, argmax=argmax, name="a name"
    )
    assert verified.ok
    assert "33x47" in verified.other_sizes
    runtime, image = deploy.Runtime(tmp_path / "a.onnx"), noise(83, 59).repeat(2, 1, 1, 1)
    assert runtime.says["model"] == "a name"
    with torch.no_grad():
        logits = module(image)
    if argmax:
        assert deploy.clear_errors(logits, runtime(image), 1e-5) == 0
    else:
        assert differ(runtime(module.normalized(image)), logits) < 1e-5
    with pytest.raises(ValueError, match="takes an image of batchx3xheightxwidth, not 2x3x83"):
        runtime(image[..., 0] if argmax else module.normalized(image)[..., 0])


@pytest.mark.slow
@onnx
def test_a_file_for_any_size_that_computes_something_else_is_refused_and_removed(
    tmp_path: Path,
) -> None:
    """PyTorch writes its own adaptive pooling for the size that is exported."""
    with pytest.raises(ValueError, match="Padded cannot be exported for any size; give one"):
        deploy.export_onnx(Padded(nn.AdaptiveAvgPool2d).eval(), tmp_path / "a.onnx", "any")
    assert not list(tmp_path.iterdir())


@onnx
def test_lightnings_own_export_writes_the_network_in_eval_mode(tmp_path: Path) -> None:
    assert "to_onnx" in vars(LightningModule)
    module, image = Padded().train(), torch.randn(1, 3, 75, 101)
    axes = {2: "height", 3: "width"}
    module.to_onnx(tmp_path / "a.onnx", image, dynamic_shapes=(axes,), verbose=False)
    assert module.training
    other = torch.randn(1, 3, 97, 51)
    with torch.no_grad():
        for each in (image, other):
            assert differ(deploy.Runtime(tmp_path / "a.onnx")(each), module.eval()(each)) < 1e-5


@pytest.mark.slow
@onnx
def test_a_checkpoint_is_exported_for_any_size(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    module = checkpoints.written(tmp_path / "last.ckpt")
    out = tmp_path / "network.onnx"
    words = [str(tmp_path), "--size", "any", "--out", str(out), "--uint8", "--argmax"]
    assert export.main(words) == 0
    assert "other sizes  any; compared at 97x131, 33x47" in capsys.readouterr().out
    runtime, image = deploy.Runtime(out), noise(43, 107)
    assert runtime.says["classes"] == module.identity.classes
    with torch.no_grad():
        logits = module(image)
    assert deploy.clear_errors(logits, runtime(image), deploy.limit_of(logits)) == 0


# --- ONNX


@pytest.fixture(scope="module")
def of_floats(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationModule, Path]:
    """A module and its file, which takes normalized floats."""
    module, file = settled(), tmp_path_factory.mktemp("onnx") / "a.onnx"
    deploy.write_onnx(deploy.deployed(module, SIZE), file, {"classes": ["a", "b"]})
    return module, file


@onnx
def test_a_file_computes_what_the_module_does_and_refuses_other_sizes(
    of_floats: tuple[SegmentationModule, Path],
) -> None:
    module, file = of_floats
    assert_same(deploy.Runtime(file), module, module.normalized(noise()))


@onnx
def test_a_file_takes_uint8_where_asked_for(tmp_path: Path) -> None:
    module = settled("smp/unet_resnet34")
    deploy.write_onnx(
        deploy.deployed(module, SIZE, uint8=True), tmp_path / "a.onnx", {"classes": ["a", "b"]}
    )
    assert_same(deploy.Runtime(tmp_path / "a.onnx"), module, noise())


def assert_same(runtime: deploy.Runtime, module: SegmentationModule, image: Tensor) -> None:
    with torch.no_grad():
        assert differ(runtime(image), module(image)) < deploy.LIMIT
    assert runtime.says == {"classes": ["a", "b"]}
    with pytest.raises(ValueError, match="the file takes an image of 1x3x64x96, not 1x3x64x128"):
        runtime(torch.cat([image, image[..., :32]], 3))


@onnx
def test_a_file_holds_no_training_head_and_no_batch_norm(
    of_floats: tuple[SegmentationModule, Path],
) -> None:
    import onnx

    module, file = of_floats
    graph = onnx.load(file).graph
    module.logits(torch.randn(1, 3, *SIZE)).sum().backward()
    needed = sum(
        each.numel() for each in module.parameters() if each.grad is not None and each.ndim == 4
    )
    assert (
        sum(
            int(torch.tensor(list(each.dims)).prod())
            for each in graph.initializer
            if len(each.dims) == 4
        )
        == needed
    )
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert [(each.name) for each in (*graph.input, *graph.output)] == ["image", "output"]


@onnx
def test_a_runs_checkpoint_is_exported_with_its_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    module = checkpoints.written(tmp_path / "last.ckpt")
    out = tmp_path / "network.onnx"
    assert (
        export.main([str(tmp_path), "--size", "64x96", "--out", str(out), "--uint8", "--argmax"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "other sizes  refused: the file takes an image of 1x3x64x96" in printed
    runtime, image = deploy.Runtime(out), noise()
    assert runtime.says["classes"] == module.identity.classes
    assert runtime.says["model"] == ROW
    with torch.no_grad():
        assert (
            deploy.clear_errors(
                module(image), runtime(image), 1e-5 * module(image).abs().max().item()
            )
            == 0
        )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "network.onnx"]


@pytest.mark.slow
@onnx
def test_a_checkpoint_is_exported_with_another_option_than_it_was_trained_with(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoints.written(tmp_path / "last.ckpt", address="emanet/resnet50")
    out = tmp_path / "network.onnx"
    words = [str(tmp_path), "--size", "64x96", "--out", str(out)]
    assert export.main([*words, "model.eval_iterations=1"]) == 0
    runtime, image = deploy.Runtime(out), torch.randn(1, 3, 64, 96)
    assert runtime.says["model"] == "emanet/resnet50 model.eval_iterations=1"
    one = from_checkpoint(tmp_path / "last.ckpt", model={"eval_iterations": 1})
    with torch.no_grad():
        assert differ(runtime(image), one(image)) < deploy.LIMIT
        assert differ(runtime(image), from_checkpoint(tmp_path / "last.ckpt")(image)) > deploy.LIMIT
    out.unlink()
    assert export.main([*words, "model.bases=32"]) == 2
    assert "makes another network than the one in" in capsys.readouterr().err


@pytest.mark.slow
@onnx
def test_a_file_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = folding.folded_weights

    def wrong(*places: object) -> tuple[Tensor, Tensor]:
        weight, bias = right(*places)
        return nn.Parameter(weight.detach() * 1.001), bias

    monkeypatch.setattr(folding, "folded_weights", wrong)
    assert export.main(["--model", ROW, "--size", "64x96", "--out", str(tmp_path / "a.onnx")]) == 1
    assert export.main(["--model", ROW, "--size", "64x96", "--check"]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("away", "rounded", "ok"), [(0.5, 0, True), (19, 1, True), (21, 1, False)])
def test_float64_is_asked_only_beyond_the_limit_and_widens_it_to_twenty_roundings(
    monkeypatch: pytest.MonkeyPatch, away: float, rounded: int, ok: bool
) -> None:
    """A file `away` limits from the module, whose own rounding is one limit."""
    module = settled()
    calls: list[float] = []

    def limit_of(logits: Tensor) -> float:
        return 1e-4 * max(1.0, logits.abs().max().item())

    def one_limit(network: nn.Module, image: Tensor, logits: Tensor) -> float:
        calls.append(limit_of(logits))
        return calls[-1]

    def runtime(image: Tensor) -> Tensor:
        if image.shape[2:] != SIZE:
            raise ValueError("another size")
        with torch.no_grad():
            logits = module(image)
        return logits + away * limit_of(logits)

    monkeypatch.setattr(deploy, "rounding", one_limit)
    assert deploy.verify(module, runtime, SIZE, uint8=True, parameters=1).ok is ok
    assert len(calls) == rounded


@pytest.fixture(scope="module")
def one_registry() -> Iterator[None]:
    """What torch.onnx knows of each operation, gathered once: a second of every export."""
    if find_spec("onnxscript") is None:
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib))
        )
        yield


@cache
def of_the_main_row(paper: str) -> tuple[str, ...]:
    return logits_operations(experiment(paper))


@onnx
@pytest.mark.catalogue
@pytest.mark.usefixtures("one_registry")
@pytest.mark.parametrize("address", [row for row in matching_rows("*") if row not in MAIN_ROWS])
def test_every_row_goes_to_onnx(address: str, once: Callable[[Hashable], bool]) -> None:
    """Once for each network: rows that differ in training alone give the same file.

    The main rows are below.
    """
    row = experiment(address)
    if not once(deployed_network(row)):
        return
    operations = logits_operations(row)
    if operations == of_the_main_row(address.partition("/")[0]) or not once(operations):
        return
    options = changed(row.network, row.model, small(row).model)
    asked = argparse.Namespace(
        network=None,
        overrides=[f"model.{name}={value}" for name, value in options.items()],
        size=(64, 128),
        uint8=False,
        argmax=False,
    )
    assert export.check_network(asked, address).ok


@onnx
@pytest.mark.catalogue
@pytest.mark.usefixtures("one_registry")
@pytest.mark.parametrize("address", MAIN_ROWS)
def test_every_main_row_is_exported_for_one_size_and_for_any_and_compiled_as_one_graph(
    address: str, tmp_path: Path
) -> None:
    module = settled(address)
    image = module.normalized(noise(75, 101))
    torch._dynamo.reset()  # it counts each network as one more form of the same code
    with torch.no_grad():
        logits = module(image)
        assert torch.equal(torch.export.export(module, (image,)).module()(image), logits)
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        assert torch.equal(compiled(image), logits)
    verified = deploy.export_onnx(module, tmp_path / "a.onnx", "any")
    assert verified.ok
    assert verified.other_sizes.count("x") == 6


# --- errors


def test_classes_that_rounding_may_turn_are_no_errors_and_others_are() -> None:
    logits = torch.tensor([[1.0, 1.0], [1.0 + 1e-6, 3.0]]).view(1, 2, 1, 2)
    assert deploy.clear_errors(logits, torch.tensor([[[0, 1]]]), 1e-5) == 0
    assert deploy.clear_errors(logits, torch.tensor([[[0, 0]]]), 1e-5) == 0.5


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ([], "what is to be exported?"),
        (["--model", "bisenett", "--size", "64x96", "--out", "a.onnx"], "did you mean bisenet"),
        (["--model", "bisenet/*", "--size", "64x96", "--out", "a.onnx"], "no row bisenet/*"),
        (["--model", ROW, "--size", "64x96"], "give --size HEIGHTxWIDTH, or --size any"),
        (
            ["--model", ROW, "--size", "64x96", "--out", "nowhere/a.onnx"],
            "there is no folder nowhere",
        ),
        (["--model", ROW, "--check", "--out", "a.onnx"], "--check keeps no file"),
        (["missing.ckpt", "--check"], "there is no missing.ckpt"),
        (["missing.ckpt", "--model", ROW, "--check"], "not both"),
        (["--model", ROW, "--check", "model.amr=true"], "did you mean model.arm"),
        (["model.arm=true", "--model", ROW, "--check", "model.arm=3"], "it takes true or false"),
        (["model.arm=no", "--model", ROW, "--check", "data.root=DIR"], "there is no group data"),
    ],
)
def test_a_wrong_word_is_one_sentence(
    given: list[str], answer: str, capsys: pytest.CaptureFixture
) -> None:
    assert export.main(given) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_size_that_is_none_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    assert export.main(["--model", ROW, "--size", "64", "--out", "a.onnx"]) == 2
    assert "--size 64: it is HEIGHTxWIDTH" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert export.main(["--model", ROW, "--check"]) == 2
    assert (
        'needs onnx, onnxscript, onnxruntime; install the optional packages with: pip install -e ".[export]"'
        in capsys.readouterr().err
    )


def test_a_pattern_chooses_rows_and_nothing_chooses_them_all() -> None:
    rows = matching_rows("bisenet/*")
    assert "bisenet/no_arm" in rows and all(row.startswith("bisenet/") for row in rows)
    assert matching_rows("bisenet") == ["bisenet/resnet18"]
    assert matching_rows("fcn,bisenet/no_arm")[1:] == ["bisenet/no_arm"]
    assert {row.split("/")[0] for row in matching_rows("*")} > {"bisenet", "fcn"}


def test_words_are_refused_without_waiting_for_torch() -> None:
    code = "import sys; from experiments import export; export.main(['--model', 'bisenett', '--check']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
