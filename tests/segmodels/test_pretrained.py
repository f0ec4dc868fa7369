"""Tests of ImageNet weights in backbones: names of other libraries, or order instead of names.

They also check the authors' files, and real weights on real images.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

import segmodels
from experiments import run
from experiments.results.reference import weights_from_names
from segmodels.architectures.bisenet import BiSeNet
from segmodels.architectures.emanet import EMANet
from segmodels.architectures.fcn import DilatedFCN
from segmodels.architectures.sfnet import SFNet
from segmodels.architectures.smp import SMP
from segmodels.architectures.stdc import STDC
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.pretrained import load_encoder
from segmodels.ports.coincheung.bisenet import FACE
from tests.support import training_step


def filled(module: nn.Module, gain: float = 1.0) -> dict[str, Tensor]:
    """A state dict drawn from its names, so that no two tensors are alike."""
    return {
        name: torch.from_numpy(np.array(weights_from_names.fill(name, each.shape, "float32", gain)))
        for name, each in module.state_dict().items()
    }


def saved(state: dict, file: Path) -> str:
    torch.save(state, file)
    return str(file)


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    module = torchvision.models.mobilenet_v2()
    module.load_state_dict(filled(module))
    return module.eval()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(each, other[name])
        for name, each in one.items()
        if not name.endswith("num_batches_tracked")
    )


# --- names of other libraries


def test_torchvisions_file_fills_timms_network_in_order_and_computes_the_same(
    mobilenet: nn.Module, tmp_path: Path
) -> None:
    module, image = timm.create_model("mobilenetv2_100").eval(), torch.randn(1, 3, 64, 96)
    said = load_encoder(module, saved(mobilenet.state_dict(), tmp_path / "mobilenet.pth"))
    assert (
        "262 of 262 backbone tensors" in said
        and "matched by their order (features.0.0.weight is conv_stem.weight" in said
    )
    with torch.no_grad():
        torch.testing.assert_close(module(image), mobilenet(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "last", "words"),
    [
        ("mobilenet_v2", 18, "left out: classifier.1.bias"),
        ("tu-mobilenetv2_100", 17, "features.0.0.weight is model.conv_stem.weight"),
    ],
)
def test_the_encoder_of_a_library_row_computes_torchvisions_features(
    name: str, last: int, words: str, mobilenet: nn.Module, tmp_path: Path
) -> None:
    module, image = SMP(3, encoder_name=name).eval(), torch.randn(1, 3, 64, 96)
    said = module.load_pretrained(
        saved({"state_dict": mobilenet.state_dict()}, tmp_path / "mobilenet.pth")
    )
    assert words in said
    with torch.no_grad():
        torch.testing.assert_close(
            module.encoder()(image)[-1], mobilenet.features[: last + 1](image), rtol=0, atol=1e-5
        )


def test_names_with_underscores_are_matched_in_order(tmp_path: Path) -> None:
    given = {
        f"_{name}": tensor
        for name, tensor in filled(timm.create_model("tf_efficientnet_lite0")).items()
    }
    encoder = SMP(3, encoder_name="tu-tf_efficientnet_lite0").encoder()
    assert "left out: _bn2.bias" in load_encoder(encoder, saved(given, tmp_path / "lite0.pth"))
    assert equal(
        {name.removeprefix("model."): each for name, each in encoder.state_dict().items()},
        {n[1:]: t for n, t in given.items()},
    )


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "encoder."])
def test_a_prefix_that_one_side_has_does_not_count(prefix: str) -> None:
    given, own = filled(timm.create_model("resnet18")), SMP(3, encoder_name="tu-resnet18").encoder()
    said = load_encoder(
        own, {f"{prefix}{name}": tensor for name, tensor in given.items()}, called="resnet18"
    )
    assert equal(
        {name.removeprefix("model."): tensor for name, tensor in own.state_dict().items()}, given
    )
    assert said.startswith("100 of 100 backbone tensors from resnet18; left out: ")


# --- what cannot be matched is refused


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"their.{name}": tensor for name, tensor in state.items()}


def swapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = list(state)
    first, second = names.index("layer1.0.bn1.weight"), names.index("layer1.0.bn1.bias")
    names[first], names[second] = names[second], names[first]
    return {name: state[name] for name in names}


def split(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        re.sub(r"layer1\.0\.bn1\.bias", "layer1.0.norm.bias", name): tensor
        for name, tensor in state.items()
    }


def longer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {f"more.{n}.weight": torch.zeros(8, 8, 3, 3) for n in range(3)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            swapped,
            r"in order their\.layer1\.0\.bn1\.bias \(64,\) comes where layer1\.0\.bn1\.weight \(64,\) should",
        ),
        (split, r"in order their\.layer1\.0\.norm\.bias \(64,\) comes where layer1\.0\.bn1\.bias"),
        (longer, "4 layers come behind the backbone's last, more than a classifier has"),
        (
            lambda state: dict(list(state.items())[:-20]),
            "in order they cannot be matched: the backbone has 100",
        ),
        (
            lambda state: filled(timm.create_model("resnet34")),
            "in order their.layer1.2.conv1.weight",
        ),
        (
            lambda state: filled(timm.create_model("resnet50")),
            "in order their.layer1.0.conv1.weight",
        ),
    ],
)
def test_another_order_is_refused_and_nothing_is_loaded(change: object, words: str) -> None:
    encoder = ResNet(18)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = {
        name: each
        for name, each in filled(timm.create_model("resnet18")).items()
        if not name.endswith("num_batches_tracked")
    }
    assert load_encoder(ResNet(18), renamed(state), called="it").startswith(
        "100 of 100"
    )  # unchanged, it is matched
    with pytest.raises(ValueError, match=words):
        load_encoder(encoder, renamed(change(state)), called="it")
    assert equal(encoder.state_dict(), before)


def test_one_name_of_ours_and_a_file_is_not_matched_in_order() -> None:
    state = filled(timm.create_model("resnet18"))
    with pytest.raises(ValueError, match="99 tensors missing"):
        load_encoder(
            ResNet(18),
            {
                name if name == "conv1.weight" else f"their.{name}": each
                for name, each in state.items()
            },
            called="it",
        )


def test_attention_is_not_matched_in_order_since_its_matrices_are_alike() -> None:
    module = smp.create_model("segformer", "mit_b0", encoder_weights=None, classes=2).encoder
    with pytest.raises(ValueError, match="in order only backbones of convolutions are matched"):
        load_encoder(module, renamed(filled(module)), called="it")


def test_a_file_that_is_no_state_dict_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "nonsense.pth").write_bytes(b"nonsense")
    with pytest.raises(
        ValueError,
        match=r"nonsense\.pth is not a checkpoint: it is damaged or another kind of file",
    ):
        load_encoder(ResNet(18), str(tmp_path / "nonsense.pth"))
    with pytest.raises(ValueError, match="holds a list, not a checkpoint or a state dict"):
        load_encoder(ResNet(18), saved([1], tmp_path / "list.pth"))


# --- the authors' ImageNet files


def stdc_file(depth: str) -> dict:
    return {
        "state_dict": training_step.weights({"stdc1": "stdcnet813", "stdc2": "stdcnet1446"}[depth])
    }


@pytest.mark.parametrize("depth", ["stdc1", "stdc2"])
def test_stdc_starts_from_its_authors_classifier(depth: str, tmp_path: Path) -> None:
    file, module = saved(stdc_file(depth), tmp_path / "stdcnet.tar"), STDC(5, depth=depth)
    said = module.load_pretrained(file)
    layout = "stdcnet813" if depth == "stdc1" else "stdcnet1446"
    classifier = segmodels.from_released(layout, file)
    assert equal(module.backbone.state_dict(), classifier.backbone.state_dict())
    count = sum(not name.endswith("num_batches_tracked") for name in module.backbone.state_dict())
    assert said.startswith(f"{count} of {count} backbone tensors from {file}; left out: ")
    with pytest.raises(ValueError, match="does not fit this backbone"):
        STDC(5, depth="stdc2" if depth == "stdc1" else "stdc1").load_pretrained(file)


def test_an_xception39_by_the_names_of_the_authors_code_fills_the_backbone(tmp_path: Path) -> None:
    whole = training_step.weights("bisenet_x39_torchseg")
    part = {
        name.removeprefix("context_path."): each
        for name, each in whole.items()
        if name.startswith("context_path.")
    }
    module = BiSeNet(5, backbone="xception39")
    module.load_pretrained(
        saved(part | {"fc.weight": torch.zeros(1000, 256)}, tmp_path / "xception39.pth")
    )
    theirs = segmodels.from_released("bisenet_x39_torchseg", whole)
    assert equal(module.encoder().state_dict(), theirs.encoder().state_dict())


def of_resnet(name: str) -> dict[str, Tensor]:
    return filled(timm.create_model(name))


def of_dfnet(layout: str) -> dict[str, Tensor]:
    whole = training_step.weights(layout)
    part = {
        name.removeprefix("backbone."): each
        for name, each in whole.items()
        if name.startswith("backbone.")
    }
    return part | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(
    ("module", "state"),
    [
        (lambda: BiSeNet(3), lambda: filled(torchvision.models.resnet18())),
        (lambda: DilatedFCN(3), lambda: filled(torchvision.models.resnet50())),
        (lambda: EMANet(3), lambda: of_resnet("resnet50s")),
        (lambda: SFNet(3, backbone="resnet50"), lambda: of_resnet("resnet50s")),
        (lambda: SFNet(3, backbone="df1"), lambda: of_dfnet("sfnet_dfv1")),
        (lambda: SFNet(3, backbone="df2"), lambda: of_dfnet("sfnet_dfv2")),
        (lambda: SMP(3), lambda: filled(torchvision.models.resnet34())),
    ],
    ids=["bisenet", "fcn", "emanet", "sfnet", "df1", "df2", "smp"],
)
def test_a_backbone_with_its_authors_names_is_filled_and_says_what_is_left(
    module: object, state: object, tmp_path: Path
) -> None:
    network, given = module(), state()
    said = network.load_pretrained(saved(given, tmp_path / "imagenet.pth"))
    assert equal(network.encoder().state_dict(), given)
    assert "left out: fc.bias, fc.weight" in said and "order" not in said


# --- as the start of a run

SCENES = ["data.height=64", "data.width=128", "data.train=4", "data.val=2", "data.workers=0"]
STEPS = [
    "recipe.crop=64x128",
    "recipe.batch=2",
    "recipe.iterations=1",
    "recipe.warmup=0",
    "recipe.precision=32-true",
]
MACHINE = [
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.wandb=disabled",
    "trainer.pictures=0",
]


def started(*words: str) -> int:
    return run.main([*words, "--data", "streets", *SCENES, *STEPS, *MACHINE])


@pytest.mark.parametrize("form", ["{file}", "released:stdcnet813={file}"])
def test_a_run_starts_from_the_authors_classifier(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = saved(stdc_file("stdc1"), tmp_path / "stdcnet813.tar")
    assert (
        started(
            "--model", "stdc", "--init", form.format(file=file), "--runs", str(tmp_path / "runs")
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert re.search(
        rf"starts from 145 of 145 backbone tensors from {re.escape(file)}.*; left out: ", printed
    )
    assert "start ImageNet ->" not in printed  # so does the paper
    (config,) = (tmp_path / "runs").glob("*/config.json")
    assert not any(
        each.startswith("start ") for each in json.loads(config.read_text())["departures"]
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--model", "stdc/stdc2"), "does not fit this backbone"),
        (("--model", "bisenet/resnet18"), "released:NAME=FILE"),
        (("--model", "fastscnn"), "holds another network"),
    ],
)
def test_a_file_for_another_backbone_is_refused_in_a_sentence(
    words: tuple[str, ...], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = saved(stdc_file("stdc1"), tmp_path / "stdcnet813.tar")
    assert started(*words, "--init", file, "--runs", str(tmp_path / "runs")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and answer in line
    assert not (tmp_path / "runs").exists()


def test_a_classifier_of_another_network_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = saved(stdc_file("stdc1"), tmp_path / "stdcnet813.tar")
    assert (
        started(
            "--model",
            "ddrnet",
            "--init",
            f"released:stdcnet813={file}",
            "--runs",
            str(tmp_path / "runs"),
        )
        == 2
    )
    assert "does not fit this backbone" in capsys.readouterr().err


# --- real files on real pictures: --weights=DIR holds them under their own names


@pytest.fixture
def real(request: pytest.FixtureRequest) -> object:
    folder = request.config.getoption("--weights", default=None)
    if not folder:
        pytest.skip("--weights=DIR was not given")

    def find(name: str) -> str:
        if file := next(Path(folder).rglob(name), None):
            return str(file)
        pytest.skip(f"--weights={folder} holds no {name}")

    return find


def pixels(file: str, box: tuple[int, int, int, int] | None = None, size: int = 224) -> Tensor:
    """uint8 (1, 3, size, size)"""
    image = Image.open(file).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize(
        (size, size), Image.Resampling.BICUBIC, box=box or (left, top, left + side, top + side)
    )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("network", "file", "mean", "std"),
    [
        (
            "mobilenetv2_100",
            "mobilenet_v2-b0353104.pth",
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
        ),
        (
            "tf_efficientnet_lite0",
            "efficientnet-lite0-57934424.pth",
            (0.5, 0.5, 0.5),
            (0.5, 0.5, 0.5),
        ),
    ],
)
@pytest.mark.parametrize(
    ("picture", "classes"), [("chelsea.png", (281, 282, 285)), ("coffee.png", (967,))]
)  # three cats; espresso
def test_a_real_file_matched_in_order_knows_what_a_picture_shows(
    network: str,
    file: str,
    mean: tuple,
    std: tuple,
    picture: str,
    classes: tuple[int, ...],
    real: object,
) -> None:
    module = timm.create_model(network).eval()
    assert "matched by their order" in load_encoder(module, real(file))
    image = (pixels(real(picture)) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
        std
    ).view(3, 1, 1)
    with torch.no_grad():
        assert module(image).softmax(1)[0, list(classes)].sum() > 0.7


def test_the_real_mobilenet_gives_a_library_row_torchvisions_features(real: object) -> None:
    theirs, ours = (
        torchvision.models.mobilenet_v2().eval(),
        SMP(3, encoder_name="tu-mobilenetv2_100").eval(),
    )
    theirs.load_state_dict(torch.load(real("mobilenet_v2-b0353104.pth"), weights_only=True))
    ours.load_pretrained(real("mobilenet_v2-b0353104.pth"))
    image = ours.normalized(pixels(real("chelsea.png")))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encoder()(image)[-1], theirs.features[:18](image), rtol=0, atol=1e-5
        )


def test_the_real_face_network_finds_the_parts_of_a_face(real: object) -> None:
    module = segmodels.from_released("bisenet_face_zllrunning", real("79999_iter.pth"))
    with torch.inference_mode():
        label = module(pixels(real("astronaut.png"), box=(110, 0, 350, 240), size=512)).argmax(1)[0]
    seen = {name: label == number for number, name in enumerate(FACE)}
    rows = {
        name: each.nonzero()[:, 0].float().mean().item()
        for name, each in seen.items()
        if each.any()
    }
    assert (
        rows["hair"]
        < rows["left eye"]
        < rows["nose"]
        < rows["upper lip"]
        < rows["lower lip"]
        < rows["neck"]
        < rows["cloth"]
    )
    assert abs(rows["left eye"] - rows["right eye"]) < 10
    assert not seen["glasses"].any() and seen["hair"].float().mean() > 0.1
