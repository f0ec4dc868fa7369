"""Tests of the mirror in W&B: the records of an offline run hold what people look for there."""

import base64
import contextlib
import hashlib
import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image

from experiments.command_line.resolved_values import resolve
from experiments.records.metrics import curve, read_metrics
from experiments.records.results import read_result
from experiments.training import wandb_mirror
from experiments.training.wandb_mirror import WandB, confusion_plot, description, summary
from segmodels.paper import experiment, macs
from tests.support import wandb_records
from tests.support.results import as_read, published, result
from tests.support.runs import only, run_tiny


class Mirrored:
    """A finished run with its records in W&B, and what it printed."""

    def __init__(self, folder: Path, printed: str) -> None:
        self.folder = folder
        self.printed = printed
        self.records = wandb_records.records(folder)
        self.history = wandb_records.history(self.records)
        self.summary = wandb_records.summary(self.records)
        self.result = read_result(folder / "result.json")

    @property
    def files(self) -> Path:
        (files,) = (self.folder / "wandb").glob("offline-run-*/files")
        return files

    def only(self, kind: str, **fields: str) -> Any:
        """The one record of a kind whose fields have these values."""
        found = [getattr(each, kind) for each in self.records if each.HasField(kind)]
        (one,) = (
            each
            for each in found
            if all(getattr(each, name) == value for name, value in fields.items())
        )
        return one

    def logged(self, name: str) -> dict[int, Any]:
        """The values of one name, by their steps."""
        return {
            values[wandb_mirror.STEP]: values[name] for values in self.history if name in values
        }


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Mirrored:
    runs = tmp_path_factory.mktemp("all runs")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("WANDB_PROJECT", "street-study")
        patch.setenv("WANDB_TAGS", "first try")
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("staging")))
        assert run_tiny(runs, "trainer.wandb=offline", "trainer.wandb_artifact=true") == 0
        wandb.teardown()
    return Mirrored(only(runs), printed.getvalue())


# --- an offline run


def test_a_run_is_found_by_its_project_its_group_its_job_type_and_its_tags(
    mirrored: Mirrored,
) -> None:
    run = mirrored.only("run")
    assert run.project == "street-study"
    assert run.run_group == "bisenet/xception39 on streets"
    assert run.job_type == "train"
    assert list(run.tags) == ["bisenet", "streets", "first try"]
    assert run.display_name == mirrored.folder.name


def test_the_iou_of_each_class_is_a_curve_in_w_and_b_and_in_metrics_csv(mirrored: Mirrored) -> None:
    metrics = read_metrics(mirrored.folder)
    present = {name for name, iou in mirrored.result.iou.items() if iou is not None}
    assert len(present) > 5
    for name in present:
        steps, values = curve(metrics, f"val/IoU/{name}")
        assert steps[-1] == 6
        six_digits = pytest.approx(dict(zip(steps, values)), rel=1e-5)
        assert mirrored.logged(f"val/IoU/{name}") == six_digits
        assert values[-1] == pytest.approx(mirrored.result.iou[name], abs=1e-6)


def test_the_summary_holds_best_and_last_and_all_scores_of_the_result(mirrored: Mirrored) -> None:
    result = json.loads((mirrored.folder / "result.json").read_text())
    for name in wandb_mirror.SUMMARY:
        assert name in result
        if result[name] is not None:
            assert mirrored.summary[name] == result[name], name
    steps, mious = curve(read_metrics(mirrored.folder), "val/mIoU")
    best = mirrored.summary["best"]
    assert best["miou"] == pytest.approx(max(mious), abs=1e-6)
    assert mious[steps.index(best["step"])] == max(mious)
    assert mirrored.summary["last"] == {"miou": result["miou"], "step": 6}
    height, width = map(int, mirrored.summary["macs_size"].split("x"))
    assert mirrored.summary["macs"] == macs(experiment("bisenet/xception39"), (height, width))
    assert mirrored.summary["parameters"] > 1e6 and mirrored.summary["seconds"] > 0
    assert "published" not in mirrored.summary  # no paper reports on streets


def test_masks_have_class_names_and_a_sheet_beside_them_has_the_data_sets_colors(
    mirrored: Mirrored,
) -> None:
    (masks,) = mirrored.logged("val/pictures/all_masks")[6]
    assert masks.keys() == {"prediction", "truth"}
    assert all((mirrored.files / mask["path"]).is_file() for mask in masks.values())
    sheet = mirrored.files / mirrored.logged("val/contact_sheet/path")[6]
    own = mirrored.folder / "pictures" / "contact_sheet.png"
    assert np.array_equal(np.asarray(Image.open(sheet)), np.asarray(Image.open(own)))


def test_the_confusion_matrix_gives_the_iou_of_the_result(mirrored: Mirrored) -> None:
    table = mirrored.files / mirrored.logged("val/confusion_table/path")[6]
    cells = json.loads(table.read_text())["data"]
    for name, iou in mirrored.result.iou.items():
        right = sum(count for true, other, count in cells if true == other == name)
        union = sum(count for true, other, count in cells if name in (true, other))
        assert iou is None if union == 0 else iou == pytest.approx(right / union)


def test_the_best_checkpoint_is_an_artifact_where_the_run_was_told_so(mirrored: Mirrored) -> None:
    artifact = mirrored.only("artifact", type="model")
    (entry,) = artifact.manifest.contents
    file = mirrored.folder / "checkpoints" / "best.ckpt"
    assert (entry.path, Path(entry.local_path)) == ("best.ckpt", file)
    digest = hashlib.md5(file.read_bytes()).digest()
    assert base64.b64decode(entry.digest) == digest
    about = json.loads(artifact.metadata)
    assert about["experiment"] == "bisenet/xception39"
    assert {name: about[name] for name in ("miou", "step")} == mirrored.summary["best"]


def test_an_offline_run_ends_with_the_line_that_uploads_it(mirrored: Mirrored) -> None:
    words = shlex.split(mirrored.printed.splitlines()[-1])  # as a shell reads them
    assert words == ["W&B", "wandb", "sync", str(mirrored.folder / "wandb")]
    assert mirrored.printed.count("wandb sync") == 1


# --- what is said of a run


def test_smoke_runs_and_methods_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*wandb_mirror.ENVIRONMENT.values(), "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)
    said = description(resolve("fcn", "streets", [], smoke=True, semi="cps"), "folder")
    assert said["project"] == "segmodels"
    assert said["job_type"] == "smoke"
    assert said["group"].endswith(" with cps on streets")
    assert said["tags"] == ["fcn", "streets", "cps", "smoke"]


def test_the_same_row_on_two_data_sets_makes_two_groups() -> None:
    groups = {
        description(resolve("bisenet", data, []), "folder")["group"]
        for data in ("streets", "cityscapes")
    }
    assert len(groups) == 2


def test_what_the_environment_says_of_a_run_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in wandb_mirror.ENVIRONMENT.values():
        monkeypatch.setenv(name, name.lower())
    said = description(resolve("fcn", "streets", []), "folder")
    assert {name: said[name] for name in wandb_mirror.ENVIRONMENT} == {
        name: variable.lower() for name, variable in wandb_mirror.ENVIRONMENT.items()
    }


def test_a_published_figure_stands_in_the_summary_where_it_was_measured_alike() -> None:
    resolved = resolve("bisenet/resnet18", "cityscapes", [])
    alike = as_read(result(data="cityscapes", published=[published(74.8)]))
    found = summary(alike, resolved)["published"]
    assert found == {"miou": 0.748, "protocol": "whole", "source": "Table 6"}
    elsewhere = as_read(result(data="streets", published=[published(74.8)]))
    assert "published" not in summary(elsewhere, resolved)


def test_a_matrix_of_many_classes_keeps_the_fullest_cells() -> None:
    names = [f"class {index}" for index in range(120)]
    counts = np.random.default_rng(0).permutation(120 * 120).reshape(120, 120)
    table = confusion_plot(names, counts.tolist()).table
    assert len(table.data) == wandb.Table.MAX_ROWS
    assert min(row[2] for row in table.data) == 120 * 120 - wandb.Table.MAX_ROWS


def test_a_disabled_mirror_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_mirror, "summary", None)
    monkeypatch.setattr(wandb_mirror, "confusion_plot", None)
    mirror = WandB("disabled", Path("nowhere"), {}, resolve("fcn", "streets", []))
    mirror.start()
    mirror.conclude(SimpleNamespace(iou={}), [])
    mirror.finish(0)
    assert mirror.run is None
