"""Tests of the table of released layouts: its figures and its failures.

The stored table is complete and current.
"""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from experiments import fidelity
from segmodels.paper import macs
from segmodels.released_checkpoints import layouts
from tests.support.paths import ROOT

QUICK = "bisenet_x39_speed_torchseg"


def test_a_faithful_layout_passes_and_nothing_is_written(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "RESULT", Path("nowhere") / "fidelity.json")
    assert fidelity.main(["--only", QUICK, "--format", "markdown"]) == 0
    head, _, row = capsys.readouterr().out.strip().splitlines()
    assert head.count("|") == row.count("|")
    assert "@ 97x161 |" in row
    assert "| 1,541,963 | 1,842,289 | 15,616,081,920 @ 768x1536 | equal |" in row


def doubled(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)[
        ..., : like.shape[2], : like.shape[3]
    ]


@pytest.mark.parametrize(
    "what", ["logits", "other_size", "auxiliary", "parameters", "total", "macs", "load"]
)
def test_a_layout_fails_when_anything_differs(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    built, counted = fidelity.build, macs

    def other(name: str, layout: dict) -> torch.nn.Module:
        if what == "load":
            raise ValueError("it lacks 2 tensors")
        module = built(name, layout)
        if what == "logits":
            module.classifier[-1].bias.data[0] += 1e-3
        if what == "other_size":
            module.context_path.resized = doubled  # the same where the size is a multiple of 32
        if what == "auxiliary":
            module.auxiliaries[1][-1].bias.data[0] += 1e-3
        if what == "parameters":
            module.classifier[-1].bias.requires_grad_(False)
        if what == "total":
            module.auxiliaries[0][-1].extra = torch.nn.Parameter(torch.zeros(1))
        return module

    monkeypatch.setattr(fidelity, "build", other)
    if what == "macs":
        monkeypatch.setattr("segmodels.paper.macs", lambda *of: int(1.002 * counted(*of)))
    assert fidelity.main(["--only", QUICK]) == 1
    printed = capsys.readouterr()
    assert "FAILS" in printed.out
    assert f"0 of 1 layouts equal the authors'; not {QUICK}" in printed.err
    assert what != "load" or "it lacks 2 tensors" in printed.out
    if what in ("other_size", "auxiliary"):
        found = fidelity.compare(QUICK)
        assert found.logits.ok and not getattr(found, what).ok


def test_what_is_stored_is_read_back_as_it_was(tmp_path: Path) -> None:
    logits = fidelity.Difference("main", 1e-6, 2e-6)
    found = fidelity.Fidelity(
        "a", "b", "c", logits, logits, None, (1, 2), (3, 4), (None, 3), (4, 5), ok=False, note="why"
    )
    fidelity.write([found, replace(found, ok=True)], tmp_path / "fidelity.json")
    assert fidelity.read(tmp_path / "fidelity.json") == [found, replace(found, ok=True)]


def test_a_layout_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    assert fidelity.main(["--only", "bisenett"]) == 2
    assert (
        f"error: no layout's name contains bisenett; there are {sorted(layouts())[0]}"
        in capsys.readouterr().err
    )


def test_the_stored_table_names_every_layout_and_none_fails() -> None:
    rows = fidelity.read(fidelity.RESULT)
    assert [each.name for each in rows] == sorted(layouts()), "run `python experiments/fidelity.py`"
    assert all(each.ok for each in rows)


@pytest.mark.catalogue
@pytest.mark.parametrize("row", fidelity.read(fidelity.RESULT), ids=lambda row: row.name)
def test_the_stored_table_is_what_the_networks_compute(row: fidelity.Fidelity) -> None:
    found = fidelity.compare(row.name)
    assert found.ok
    same = {
        name: getattr(row, name) for name in ("logits", "other_size", "auxiliary")
    }  # the last digits of an error are the machine's
    assert replace(found, **same) == row


def test_help_and_the_stored_table_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from experiments import fidelity; fidelity.main(['--stored']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize("name", fidelity.layout_names(""))
def test_every_auxiliary_output_of_the_authors_has_a_name_of_ours(name: str) -> None:
    layout = json.loads(gzip.decompress((fidelity.RELEASED / f"{name}.json.gz").read_bytes()))
    for size in ("", "__b"):
        keys = np.load(fidelity.RELEASED / f"{name}{size}.npz").files
        theirs = {key.split("/")[1] for key in keys if key.startswith("aux/")}
        assert theirs == set(layout["aux_names"])


def test_the_page_shows_the_stored_table(capsys: pytest.CaptureFixture) -> None:
    assert fidelity.main(["--stored", "--format", "markdown"]) == 0
    page = (ROOT / "docs" / "FIDELITY.md").read_text()
    shown = page.partition("<!-- fidelity -->\n")[2].partition("<!-- /fidelity -->")[0]
    assert shown == capsys.readouterr().out, (
        "put the output of `python experiments/fidelity.py --stored --format markdown` "
        "into docs/FIDELITY.md"
    )
