"""Tests of evaluate.py beyond one score.

These are protocols, released checkpoints, image records and submissions.
"""

import json
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Cityscapes
from datamodules.labels import CITYSCAPES
from experiments import evaluate, report
from experiments.evaluation import score
from experiments.evaluation.per_image import loss_and_confidence
from experiments.evaluation.submission import official_scores
from experiments.records.image_records import RADII, load
from segmodels.inference_modes import mode
from segmodels.metrics import JaccardIndex, scores
from segmodels.module import SegmentationModule
from segmodels.paper import Published, experiment
from tests.support import trees
from tests.support.checkpoints import state, written

X39 = "bisenet_x39_torchseg"


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """Three official-looking images of val, two of test, and the checkpoint of a small network."""
    trees.cityscapes(tmp_path / "Cityscapes", {"train": 1, "val": 3, "test": 2}, size=(64, 96))
    return tmp_path / "Cityscapes"


@pytest.fixture
def authors(tmp_path: Path) -> Path:
    torch.save(state(X39), tmp_path / "x39.pth")
    return tmp_path / "x39.pth"


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the official data set were as small as ours."""
    monkeypatch.setattr(Cityscapes, "counts", {"train": 1, "val": 3, "test": 2})


def of(root: Path) -> list[str]:
    return [f"data.root={root}", "data.workers=0"]


# --- Ctrl-C


@pytest.mark.parametrize("words", [(), ("--shift", "fog", "--severities", "1")])
def test_ctrl_c_while_images_are_judged_is_told_in_one_line(
    words: tuple[str, ...],
    streets: Path,
    whole: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentationModule, "validation_step", pressed)
    written(tmp_path / "last.ckpt", data="cityscapes")
    before = signal.getsignal(signal.SIGINT)
    try:
        assert evaluate.main([str(tmp_path / "last.ckpt"), *words, *of(streets)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert (
        capsys.readouterr().err == "\nstopped; what is named above is written, and nothing else\n"
    )


# --- protocols


def test_a_part_of_the_images_is_set_against_no_published_figure(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(
        tmp_path / "last.ckpt", address="stdc/stdc1", data="cityscapes", inference="resized:0.5"
    )
    assert (
        evaluate.main(
            [str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "found.json"), *of(streets)]
        )
        == 0
    )
    assert "3 of 500 images were evaluated" in capsys.readouterr().out
    assert report.main([str(tmp_path / "found.json"), "--format", "csv"]) == 0
    assert "72.2" not in capsys.readouterr().out


def test_every_protocol_of_the_paper_is_scored_beside_its_figure(
    streets: Path, whole: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    written(tmp_path / "run" / "last.ckpt", address="stdc/stdc1", data="cityscapes")
    assert evaluate.main([str(tmp_path / "run"), "--protocols", *of(streets)]) == 0
    table = capsys.readouterr().out.rsplit("protocol ", 1)[1]
    found = {
        each["protocol"]: each
        for file in (tmp_path / "run").glob("*.json")
        for each in [json.loads(file.read_text())]
    }
    assert set(found) == {"whole", "resized:0.5", "resized:0.75"}
    for protocol, each in found.items():
        assert (
            evaluate.main(
                [
                    str(tmp_path / "run"),
                    "--inference",
                    protocol,
                    "--out",
                    str(tmp_path / "one.json"),
                    *of(streets),
                ]
            )
            == 0
        )
        assert json.loads((tmp_path / "one.json").read_text())["iou"] == each["iou"]
        for file in ("one.json", "one.npz"):
            (tmp_path / file).unlink()
    for protocol, each in found.items():
        shown = [line.split() for line in table.splitlines() if line.startswith(protocol)]
        first = next(
            (
                figure
                for figure in each["published"]
                if (figure["split"], figure["protocol"]) == ("val", protocol)
            ),
            None,
        )
        ours, accuracy = 100 * each["miou"], 100 * each["pixel_accuracy"]
        told = [f"{first['miou']:.1f}", f"{ours - first['miou']:+.1f}"] if first else ["-", "-"]
        assert [line[:5] for line in shown] == [[protocol, f"{ours:.1f}", f"{accuracy:.1f}", *told]]
    assert "README of the authors' STDC-Seg" in table


@pytest.fixture
def emanet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of a paper that reports two of its figures with other options of the network."""
    five = (("eval_iterations", 5),)
    figures = (
        Published(80.0, "cityscapes", "val", "whole", "Table 1"),
        Published(81.0, "cityscapes", "val", "whole", "Table 2", model=five),
        Published(82.0, "cityscapes", "val", "flip", "Table 3", model=five),
        Published(83.0, "cityscapes", "val", "flip", "Table 4", options=(("training", "coarse"),)),
        Published(84.0, "cityscapes", "val", "resized:0.5", "Table 5", model=(("bases", 16),)),
    )
    row = replace(experiment("emanet/resnet50"), published=figures)
    monkeypatch.setattr(score, "experiment", lambda address: row)
    (tmp_path / "run").mkdir()
    written(tmp_path / "run" / "last.ckpt", address="emanet/resnet50", data="cityscapes")
    return tmp_path / "run"


@pytest.mark.slow
def test_every_protocol_is_scored_with_the_options_that_the_paper_reports_it_under(
    emanet: Path, streets: Path, whole: None, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate.main([str(emanet), "--protocols", *of(streets)]) == 0
    said = capsys.readouterr().out
    assert "the paper also reports model.bases=16, which is left out: " in said
    results = [json.loads(file.read_text()) for file in emanet.glob("*.json")]
    found = {(each["protocol"], str(each["model"])): each for each in results}
    five = "{'eval_iterations': 5}"
    wanted = {
        ("whole", "{}"),
        ("whole", five),
        ("flip", five),
        ("flip", "{}"),
        ("resized:0.5", "{}"),
    }
    assert set(found) == wanted and len(results) == 5
    assert found["whole", "{}"]["iou"] != found["whole", five]["iou"]
    for word, key in (("model.eval_iterations=5", five), ("model.eval_iterations=3", "{}")):
        out = emanet.parent / f"{word}.json"
        assert evaluate.main([str(emanet), word, "--out", str(out), *of(streets)]) == 0
        assert json.loads(out.read_text())["iou"] == found["whole", key]["iou"]
    lines = [line.split() for line in said.rsplit("\nprotocol ", 1)[1].splitlines()]
    assert lines[0][0] == "options"
    claims = {tuple(line[:2]): line[-5:] for line in lines if "Table" in line}
    assert claims["whole", "as"][1:] == ["80.0", *claims["whole", "as"][2:3], "Table", "1"]
    assert claims["whole", "model.eval_iterations=5"][-2:] == ["Table", "2"]
    assert claims["flip", "model.eval_iterations=5"][-2:] == ["Table", "3"]
    assert (
        len(claims) == 3
    )  # the fourth figure is of other training images, the fifth of another network


def test_options_that_are_given_hold_for_every_protocol(
    emanet: Path, streets: Path, whole: None, capsys: pytest.CaptureFixture
) -> None:
    words = ["--protocols", "model.eval_iterations=5", *of(streets)]
    assert evaluate.main([str(emanet), *words]) == 0
    results = [json.loads(file.read_text()) for file in emanet.glob("*.json")]
    assert sorted(each["protocol"] for each in results) == ["flip", "resized:0.5", "whole"]
    assert all(each["model"] == {"eval_iterations": 5} for each in results)
    table = capsys.readouterr().out.rsplit("\nprotocol ", 1)[1]
    assert "options" not in table and "Table 2" in table and "Table 1" not in table


def test_a_figure_under_other_options_is_told_with_them(
    emanet: Path, streets: Path, whole: None, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate.main([str(emanet), *of(streets)]) == 0
    said = capsys.readouterr().out
    assert "published: 80.0 on cityscapes val, Table 1\n" in said
    note = "(protocol whole, model.eval_iterations=5: not comparable with whole)"
    assert f"published: 81.0 on cityscapes val, Table 2 {note}\n" in said
    assert "(protocol flip, data.training=coarse: not comparable with whole)" in said


def test_a_protocol_that_no_mode_computes_is_told_and_set_beside_nothing(
    streets: Path, whole: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The authors' fast BiSeNet is scored on labels of 96x192."""
    (tmp_path / "run").mkdir()
    at = {"address": "bisenet/resnet18_speed", "data": "cityscapes", "inference": "resized:0.75"}
    written(tmp_path / "run" / "last.ckpt", **at)
    assert evaluate.main([str(tmp_path / "run"), "--protocols", *of(streets)]) == 0
    said = capsys.readouterr().out
    theirs = "768x1536, labels at 1/8"
    assert f'reports "{theirs}", which no inference mode computes: it is left out\n' in said
    assert "74.8" not in said
    (file,) = (tmp_path / "run").glob("*.json")
    assert json.loads(file.read_text())["protocol"] == "resized:0.75"
    assert evaluate.main([str(tmp_path / "run"), *of(streets)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "published: 74.8 on cityscapes val, README of the authors' TorchSeg "
        f"(protocol {theirs}: not comparable with resized:0.75)" in said
    )


def test_several_protocols_and_one_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(tmp_path / "last.ckpt")
    assert evaluate.main([str(tmp_path), "--protocols", "--out", str(tmp_path / "one.json")]) == 2
    assert "leave --out out" in capsys.readouterr().err


# --- the authors' checkpoint


def test_a_released_checkpoint_is_scored_and_stands_in_the_report(
    streets: Path, authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runs = tmp_path / "runs"
    words = ["--released", X39, str(authors), *of(streets), "--runs", str(runs)]
    assert evaluate.main(words) == 0
    folder = next(runs.iterdir())
    found = json.loads((folder / "result.json").read_text())
    assert (found["experiment"], found["released"], found["port"], found["finished"]) == (
        "bisenet/xception39_accuracy",
        X39,
        False,
        True,
    )
    assert (found["checkpoint"], found["overrides"]) == ("x39.pth", {"released": X39})
    with Image.open(folder / "result.png") as picture:
        assert picture.width == 3 * 512 + 2 * 6
    module = evaluate_module(authors)
    judge = JaccardIndex(19)
    for image in sorted((streets / "leftImg8bit" / "val").glob("*/*.png")):
        label = (
            streets
            / "gtFine"
            / "val"
            / image.parent.name
            / image.name.replace("leftImg8bit", "gtFine_labelIds")
        )
        pixels = torch.from_numpy(np.asarray(Image.open(image)).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            guess = mode(found["protocol"])(module, pixels).full().argmax(1).to(torch.uint8)
        judge.update(
            guess, torch.from_numpy(CITYSCAPES.encode(np.asarray(Image.open(label))))[None]
        )
    assert list(found["iou"].values()) == pytest.approx(scores(judge.confmat)["iou"], abs=1e-12)
    capsys.readouterr()
    assert report.main([str(runs), "--format", "csv"]) == 0
    assert X39 in capsys.readouterr().out
    assert evaluate.main(words) == 0  # a second time in a folder of its own
    assert len(list(runs.iterdir())) == 2


def test_a_released_checkpoint_of_a_row_is_scored_with_another_option(tmp_path: Path) -> None:
    torch.save(state("emanet_r50"), tmp_path / "r50.pth")
    trees.voc(tmp_path / "voc")
    words = [
        "--released",
        "emanet_r50",
        str(tmp_path / "r50.pth"),
        "--runs",
        str(tmp_path / "runs"),
    ]
    words += ["--pictures", "0", "--inference", "whole", *of(tmp_path / "voc")]
    assert evaluate.main([*words, "model.eval_iterations=5"]) == 0
    assert evaluate.main(words) == 0
    folders = sorted((tmp_path / "runs").iterdir())
    plain = "released-emanet_r50-voc-val-whole"
    assert [folder.name for folder in folders] == [plain, f"{plain}-eval_iterations_5"]
    own, found = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert own["pixels"] == found["pixels"] and (own["model"], own["released"]) == (
        {},
        "emanet_r50",
    )
    assert found["model"] == {"eval_iterations": 5}
    assert found["overrides"] == {"released": "emanet_r50", "model.eval_iterations": 5}
    assert report.main([str(tmp_path / "runs"), "--format", "csv"]) == 0


def evaluate_module(file: Path) -> torch.nn.Module:
    from segmodels import from_released

    return from_released(X39, file)


def test_another_code_lines_checkpoint_is_held_against_its_own_figures(
    streets: Path, whole: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(state("mmseg_bisenetv2"), tmp_path / "v2.pth")
    out = tmp_path / "found.json"
    words = [
        "--released",
        "mmseg_bisenetv2",
        str(tmp_path / "v2.pth"),
        "--inference",
        "whole",
        "--pictures",
        "0",
        "--out",
        str(out),
    ]
    assert evaluate.main([*words, *of(streets)]) == 0
    found, said = json.loads(out.read_text()), capsys.readouterr().out
    assert found["port"] and all("mmsegmentation" in each["source"] for each in found["published"])
    assert (
        "published: 75.8 on cityscapes val, mmsegmentation, configs/bisenetv2/metafile.yaml (batch 32)"
        in said
    )


def test_a_network_of_other_things_is_refused_by_the_names_of_its_classes(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(state("bisenet_face_zllrunning"), tmp_path / "face.pth")
    assert (
        evaluate.main(
            [
                "--released",
                "bisenet_face_zllrunning",
                str(tmp_path / "face.pth"),
                "--data",
                "cityscapes",
                *of(streets),
            ]
        )
        == 2
    )
    assert "has 19 classes (background, skin, left brow, ...)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--released", X39, "nowhere.pth"], "there is no file nowhere.pth"),
        (["--released", "bisenet_x39", "FILE"], "did you mean bisenet_x39_torchseg?"),
        (["released:bisenet_x39_torchseg"], "write released:NAME=FILE"),
        (["runs/some", "--released", X39, "FILE"], "two networks are named"),
        ([], "no network is named"),
        (["--released", X39, "FILE", "--network", "teacher"], "holds one network alone"),
        (["--released", X39, "FILE", "model.amr=true"], "did you mean model.arm"),
        (["--released", X39, "FILE", "model.arm=false"], "makes another network than the one in"),
        (["--released", "mmseg_bisenetv2", "FILE", "model.alpha=2"], "takes no options; leave out"),
        (["--released", "bisenet_x39", "FILE", "model.arm=no"], "mean bisenet_x39_torchseg?"),
        (["model.arm=false"], "no network is named"),
    ],
)
def test_a_released_checkpoint_that_is_named_wrongly_is_refused(
    words: list[str], said: str, authors: Path, streets: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [str(authors) if word == "FILE" else word for word in words]
    assert evaluate.main([*words, *of(streets)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_place_for_released_results_that_cannot_be_made_is_known_before_the_work(
    streets: Path, authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--released", X39, str(authors), *of(streets), "--runs"]
    assert evaluate.main([*words, str(authors / "runs")]) == 2
    assert (
        f"{authors / 'runs'} cannot be written to (Not a directory); give --runs another folder"
        in capsys.readouterr().err
    )
    assert evaluate.main(["--released", X39, str(tmp_path), *of(streets)]) == 2
    assert f"{tmp_path} is a folder; give the authors' checkpoint" in capsys.readouterr().err


def test_two_networks_are_drawn_beside_each_other(
    streets: Path, authors: Path, tmp_path: Path
) -> None:
    written(tmp_path / "last.ckpt", data="cityscapes")
    out = tmp_path / "found.json"
    words = [
        str(tmp_path / "last.ckpt"),
        *of(streets),
        "--beside",
        f"released:{X39}={authors}",
        "--pictures",
        "2",
        "--out",
        str(out),
    ]
    assert evaluate.main(words) == 0
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.width == 4 * 512 + 3 * 6 and picture.height > 2 * 340


# --- a closer look


def test_the_records_hold_each_image_and_add_up_to_the_score(streets: Path, tmp_path: Path) -> None:
    module = written(tmp_path / "last.ckpt", data="cityscapes")
    out = tmp_path / "found.json"
    assert (
        evaluate.main([str(tmp_path / "last.ckpt"), *of(streets), "--full", "--out", str(out)]) == 0
    )
    found, examined = json.loads(out.read_text()), load(tmp_path / "found.npz")
    assert found["records"] == "found.npz" and len(examined.names) == 3
    assert scores(torch.from_numpy(examined.confusion))["iou"] == list(found["iou"].values())
    low, high = found["interval"]
    assert low <= found["miou"] <= high
    for index, name in enumerate(examined.names):
        city = name.split("_")[0]
        image = np.asarray(
            Image.open(streets / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png")
        )
        label = torch.from_numpy(
            CITYSCAPES.encode(
                np.asarray(
                    Image.open(streets / "gtFine" / "val" / city / f"{name}_gtFine_labelIds.png")
                )
            )
        )
        with torch.no_grad():
            logits = mode(module.recipe.inference)(
                module, torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
            ).full()
        loss = torch.nn.functional.cross_entropy(logits, label[None].long(), ignore_index=255)
        assert examined.losses[index] == pytest.approx(loss.item(), rel=1e-5)
        guess, valid = logits.argmax(1)[0], label != 255
        counted = np.zeros((19, 19), int)
        np.add.at(counted, (label[valid].numpy(), guess[valid].numpy()), 1)
        assert np.array_equal(counted, examined.confusions[index])
    assert examined.calibration[..., 0].sum() == found["pixels"]
    assert set(found["full"]["trimap"]) == set(map(str, RADII))
    assert 0 <= found["full"]["ece"] <= 1 and 0 <= found["full"]["boundary_f1"] <= 1


def test_loss_and_confidence_come_out_of_rows_as_out_of_the_whole(tmp_path: Path) -> None:
    module = written(tmp_path / "last.ckpt")
    image, label = (
        torch.randint(256, (1, 3, 150, 90), dtype=torch.uint8),
        torch.randint(19, (150, 90), dtype=torch.uint8),
    )
    label[:40] = 255
    with torch.no_grad():
        for inference in ("whole", "flip"):
            loss, confidence = loss_and_confidence(mode(inference)(module, image), label)
            strips = mode(inference)(module, image)
            whole = strips.probabilities(0, 150)
            log = (
                whole.clamp_min(torch.finfo(torch.float32).tiny).log()
                if inference == "flip"
                else strips.full().log_softmax(1)
            )
            wanted = torch.nn.functional.nll_loss(log, label[None].long(), ignore_index=255)
            assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
            assert torch.allclose(confidence, whole.amax(1)[0], atol=1e-6)


def test_a_page_of_failures_is_written(streets: Path, tmp_path: Path) -> None:
    written(tmp_path / "last.ckpt", data="cityscapes")
    words = [
        str(tmp_path / "last.ckpt"),
        *of(streets),
        "--page",
        str(tmp_path / "page.html"),
        "--out",
        str(tmp_path / "found.json"),
    ]
    assert evaluate.main(words) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert page.count("data:image/") > 3


# --- submissions


def test_a_submission_of_val_is_what_the_official_script_scores_alike(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("cityscapesscripts", reason="the eval script is in the test extra")
    written(tmp_path / "last.ckpt", data="cityscapes")
    out = tmp_path / "files"
    assert evaluate.main([str(tmp_path / "last.ckpt"), "--submit", str(out), *of(streets)]) == 0
    said = capsys.readouterr().out
    assert "the official script says the same" in said
    assert (
        evaluate.main(
            [str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "found.json"), *of(streets)]
        )
        == 0
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert f"mIoU of the files on val: {100 * found['miou']:.4f}" in said
    with zipfile.ZipFile(out / "submission.zip") as archive:
        assert sorted(archive.namelist()) == sorted(file.name for file in out.glob("*.png"))


def test_a_submission_of_test_has_the_official_names_and_tells_no_score(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    module = written(tmp_path / "last.ckpt", data="cityscapes")
    out = tmp_path / "files"
    assert (
        evaluate.main(
            [str(tmp_path / "last.ckpt"), "--split", "test", "--submit", str(out), *of(streets)]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "there is no mIoU" in said and "mIoU of" not in said
    images = sorted((streets / "leftImg8bit" / "test").glob("*/*.png"))
    assert sorted(file.name for file in out.glob("*.png")) == sorted(
        each.name.replace("_leftImg8bit.png", "_pred_labelIds.png") for each in images
    )
    for each in images:
        pixels = torch.from_numpy(np.asarray(Image.open(each)).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            wanted = CITYSCAPES.decode(module.label_map(pixels)[0].numpy())
        assert np.array_equal(
            np.asarray(
                Image.open(out / each.name.replace("_leftImg8bit.png", "_pred_labelIds.png"))
            ),
            wanted,
        )
    assert evaluate.main([str(tmp_path / "last.ckpt"), "--split", "test", *of(streets)]) == 2
    assert "not public" in capsys.readouterr().err
    assert (
        evaluate.main(
            [str(tmp_path / "last.ckpt"), "--split", "test", "--submit", str(out), *of(streets)]
        )
        == 2
    )
    assert "is not overwritten" in capsys.readouterr().err


def test_the_official_script_is_asked_as_its_own_command_would(tmp_path: Path) -> None:
    pytest.importorskip("cityscapesscripts", reason="the eval script is in the test extra")
    ids = np.full((8, 8), 7, np.uint8)
    guess = ids.copy()
    guess[:, :2] = 8
    for name, each in (("truth", ids), ("guess", guess)):
        Image.fromarray(each).save(tmp_path / f"{name}.png")
    found = official_scores([(str(tmp_path / "guess.png"), str(tmp_path / "truth.png"))])
    assert found["classScores"]["road"] == 0.75 and found["classScores"]["sidewalk"] == 0.0
