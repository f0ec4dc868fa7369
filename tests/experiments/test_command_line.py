"""Tests of the command line: values and their origins, and the errors for wrong names.

None of it imports torch.
"""

import importlib
import itertools
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import evaluate, run
from experiments.command_line import catalogue, errors, networks, resolved_values, row_patterns
from experiments.command_line.errors import UserError
from experiments.command_line.resolved_values import Recipe, departures, resolve
from experiments.records.results import PublishedFigure
from experiments.records.run_folder import read_config
from experiments.reports import terminal_tables
from segmodels.nearest_names import SYNONYMS
from tests.support.paths import ROOT
from tests.support.results import as_read, published, result


def test_values_come_from_paper_then_budget_then_smoke_then_command_line() -> None:
    found = resolve(
        "bisenet", "streets", ["recipe.lr=0.5", "model.arm=no", "recipe.crop=64x96"], smoke=True
    )
    origins = {
        name: found.origins[f"recipe.{name}"]
        for name in ("power", "jitter", "iterations", "lr", "crop")
    }
    assert origins == {
        "power": "paper",
        "jitter": "budget of streets",
        "iterations": "--smoke",
        "lr": "command line",
        "crop": "command line",
    }
    assert (found.recipe["lr"], found.model["arm"], found.recipe["crop"]) == (0.5, False, [64, 96])


def test_what_replaced_a_papers_value_is_a_departure_and_what_did_not_is_none() -> None:
    assert resolve("bisenet", "cityscapes", []).departures == []
    found = resolve(
        "bisenet", "cityscapes", ["recipe.lr=0.5", "recipe.power=0.9", "trainer.devices=2"]
    )
    assert found.departures == ["recipe.lr 0.025 -> 0.5 (command line)"]


FIRST = next(iter(catalogue.catalogue()["papers"]))  # with which a list of papers begins
SCRATCH = "start ImageNet -> scratch (default)"


@pytest.mark.parametrize(
    ("row", "data", "given", "init", "told"),
    [
        # The class weights of HRNet's Cityscapes are these papers' own; their ImageNet weights are
        # in no library.
        ("ddrnet", "cityscapes", [], None, [SCRATCH]),
        ("pidnet", "cityscapes", [], None, [SCRATCH]),
        ("stdc", "cityscapes", [], None, [SCRATCH]),
        ("fcn", "cityscapes", [], None, []),
        ("fcn", "cityscapes", [], "scratch", ["start ImageNet -> scratch (command line)"]),
        ("fcn", "cityscapes", [], "imagenet", []),
        # They train from scratch.
        ("fastscnn", "cityscapes", [], None, []),
        ("bisenetv2", "cityscapes", [], "scratch", []),
        # A library's networks have no paper to differ from.
        ("smp", "cityscapes", [], None, []),
        (
            "bisenet",
            "cityscapes",
            ["trainer.accumulate=8", "trainer.devices=2"],
            None,
            ["trainer.accumulate 1 -> 8 (command line): batch norm sees parts of a batch"],
        ),
        (
            "bisenet/resnet18_speed",
            "cityscapes",
            ["trainer.accumulate=2"],
            None,
            [
                "trainer.accumulate 1 -> 2 (command line): "
                "batch norm and mining see parts of a batch"
            ],
        ),
        (
            "bisenet",
            "cityscapes",
            ["data.training=coarse", "data.root=somewhere", "data.workers=3"],
            None,
            ["data.training fine -> coarse (command line)"],
        ),
        ("emanet", "voc", ["data.training=trainaug"], None, []),
        (
            "emanet",
            "voc",
            ["data.training=train"],
            None,
            ["data.training trainaug -> train (command line)"],
        ),
    ],
)
def test_a_departure_is_whatever_the_paper_has_otherwise_and_nothing_else(
    row: str, data: str, given: list[str], init: str | None, told: list[str]
) -> None:
    assert resolve(row, data, given, init=init).departures == told


def test_a_change_of_any_value_of_recipe_or_network_is_a_departure() -> None:
    found = resolve("stdc", "cityscapes", [])
    for group in ("recipe", "model"):
        for name in found.groups()[group]:
            changed = replace(found, **{group: found.groups()[group] | {name: "another"}})
            new = set(departures(changed)) - set(found.departures)
            assert [line.split()[0] for line in new] == [f"{group}.{name}"]


def with_row(**changes: object) -> dict:
    """The catalogue, with another main row of Fast-SCNN's paper."""
    known = deepcopy(catalogue.catalogue())
    known["papers"]["fastscnn"]["rows"]["fastscnn"] |= changes
    return known


def test_what_a_row_says_of_its_papers_data_is_no_departure_and_elsewhere_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = [{"data": "camvid32", "options": {"grouped": False}}]
    budgets = {"camvid32": {"lr": 0.5}, "camvid": {"lr": 0.5}}
    known = with_row(reported=figures, budgets=budgets)
    monkeypatch.setattr(resolved_values, "catalogue", lambda: known)
    own = resolve("fastscnn", "camvid32", ["data.grouped=false"])
    assert own.recipe["lr"] == 0.5 and own.departures == []
    assert resolve("fastscnn", "camvid32", []).departures == [
        "data.grouped False -> True (default)"
    ]
    other = resolve("fastscnn", "camvid", []).departures
    assert "recipe.lr 0.045 -> 0.5 (budget of camvid)" in other


def test_a_row_whose_source_starts_an_encoder_from_scratch_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = with_row(starts_from="scratch", pretrained=False)
    monkeypatch.setattr(resolved_values, "catalogue", lambda: known)
    found = resolve("fastscnn", "cityscapes", [])
    assert (found.start, found.departures) == ("scratch", [])


def test_weights_start_from_imagenet_wherever_the_paper_reports_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = catalogue.catalogue()
    for paper, entry in known["papers"].items():
        figures = [figure for row in entry["rows"].values() for figure in row["published"]]
        for row, each in entry["rows"].items():
            found = {data: resolve(f"{paper}/{row}", data, []).start for data in known["data"]}
            wanted = {each["data"], *(figure["data"] for figure in figures)}
            named = each["starts_from"] not in (None, "scratch")
            expected = {name for name in wanted if named and name in found}
            assert {name for name, start in found.items() if start == "imagenet"} == expected
            assert set(found.values()) <= {"imagenet", "scratch"}
    assert resolve("emanet/lambda_2", "voc", []).start == "imagenet"  # as the main row
    assert resolve("emanet", "voc", [], init="scratch").start == "scratch"
    assert resolve("emanet", "voc", [], smoke=True).start == "scratch"
    assert resolve("emanet", "camvid", [], init="imagenet").start == "imagenet"


def test_norms_are_frozen_only_if_there_are_statistics_to_keep() -> None:
    scratch = resolve("deeplabv2", "streets", [])
    assert scratch.model["frozen_norms"] is False
    line = "model.frozen_norms True -> False (scratch has no statistics to keep)"
    assert line in scratch.departures
    assert resolve("deeplabv2", "voc", []).model["frozen_norms"] is True
    assert resolve("deeplabv2", "streets", [], init="imagenet").model["frozen_norms"] is True
    own = resolve("deeplabv3/frozen_norms", "voc", ["model.frozen_norms=True"], init="scratch")
    assert own.model["frozen_norms"] is True  # as one asks for


def test_a_row_may_override_a_data_sets_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    known = deepcopy(catalogue.catalogue())
    known["papers"]["bisenet"]["rows"]["resnet18"]["budgets"] = {"streets": {"iterations": 7}}
    monkeypatch.setattr(resolved_values, "catalogue", lambda: known)
    assert resolve("bisenet", "streets", []).recipe["iterations"] == 7


def test_the_default_data_set_is_cityscapes_where_its_variable_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve("bisenet", None, []).data_name == "streets"
    monkeypatch.setenv("CITYSCAPES_DATASET", "somewhere")
    assert resolve("bisenet", None, []).data_name == "cityscapes"


@pytest.mark.parametrize(
    ("model", "data", "word", "answer"),
    [
        ("bisenett", None, "", "no paper bisenett; did you mean bisenet"),
        ("bisenet/no_ram", None, "", "no row bisenet/no_ram; did you mean bisenet/no_arm"),
        ("bisenet", "cityscape", "", "no data set cityscape; did you mean cityscapes"),
        ("bisenet", None, "recpie.lr=1", "no group recpie; did you mean recipe"),
        (
            "bisenet",
            None,
            "recipe.irations=1",
            "no field recipe.irations; did you mean recipe.iterations",
        ),
        ("bisenet", None, "model.amr=true", "no field model.amr; did you mean model.arm"),
        ("bisenet", None, "data.hieght=64", "no field data.hieght; did you mean data.height"),
        ("bisenet", None, "recipe.lr=fast", "recipe.lr=fast: it takes a number"),
        ("bisenet", None, "recipe.batch=2.5", "recipe.batch=2.5: it takes a whole number"),
        ("bisenet", None, "model.arm=maybe", "model.arm=maybe: it takes true or false"),
        ("bisenet", None, "recipe.crop=512", "recipe.crop=512: it takes 2 values"),
        ("bisenet", None, "recipe.optimizer=adamww", "did you mean recipe.optimizer=adamw"),
        ("bisenet", None, "recipe.lr=-1", "recipe.lr is -1.0; it must be above 0"),
        ("bisenet", None, "recipe.blur=kernel:4", "must be none, kernel:5 (an odd side of pixels)"),
        ("bisenet", None, "recipe.blur=kernel:1", "recipe.blur is kernel:1"),
        ("bisenet", None, "recipe.blur=sigma:2,1", "recipe.blur is sigma:2,1"),
        ("bisenet", None, "recipe.blur=sigma:0,1", "recipe.blur is sigma:0,1"),
        ("bisenet", None, "recipe.rotation=200", "it must be degrees from 0 to 180"),
        ("bisenet", None, "recipe.rotation_chance=2", "it must be a probability"),
        ("bisenet", None, "recipe.shift=-1", "it must be a number of pixels"),
        ("bisenet", None, "recipe.elastic=-1", "it must be a number of pixels"),
        ("bisenet", None, "recipe.blur_chance=2", "it must be a probability"),
        ("bisenet", None, "recipe.inference=slide:big", "no inference mode; there are whole"),
        ("bisenet", None, "recipe.lr", "write group.name=value"),
        ("bisenet", None, "lr=1", "write group.name=value"),
    ],
)
def test_a_wrong_word_is_refused_with_the_right_one(
    model: str, data: str | None, word: str, answer: str
) -> None:
    with pytest.raises(UserError) as refusal:
        resolve(model, data, [word] if word else [])
    assert answer in str(refusal.value)


MEANT = {  # a word of another library, or in another group, and ours
    "recipe.learning_rate": "recipe.lr",
    "recipe.epochs": "recipe.iterations",
    "trainer.max_epochs": "recipe.iterations",
    "recipe.max_steps": "recipe.iterations",
    "data.batch_size": "recipe.batch",
    "trainer.gpus": "trainer.devices",
    "trainer.gpu": "trainer.accelerator",
    "data.num_workers": "data.workers",
    "trainer.workers": "data.workers",
    "recipe.Weight-Decay": "recipe.weight_decay",
    "model.pretrained": "--init",
    "trainer.checkpoint": "--init",
    "train.lr": "recipe.lr",
    "lr": "recipe.lr",
    "epochs": "recipe.iterations",
    "seed": "--seed",
    "recipe.zebra": "",
    "zebra.zebra": "",
    "zebra": "",
}


@pytest.mark.parametrize("word", MEANT)
def test_another_librarys_word_leads_to_ours_and_a_far_one_to_none(word: str) -> None:
    with pytest.raises(UserError) as refusal:
        resolve("bisenet", None, [f"{word}=1"])
    hint = re.search(r"did you mean (\S+)\?", str(refusal.value))
    assert (hint[1] if hint else "") == MEANT[word]


def test_every_synonym_is_of_a_name_that_there_is() -> None:
    data = catalogue.catalogue()["data"]
    groups = {"recipe": Recipe, "trainer": resolved_values.Machine}
    fields = {group: catalogue.options(kind) for group, kind in groups.items()}
    fields["data"] = data["streets"]["options"]
    known = {*run.make_parser()._option_string_actions, *data, "cuda"}  # of --device
    for group, options in fields.items():
        for name, option in options.items():
            known |= {f"{group}.{name}", *option.get("choices", ())}
    assert set(SYNONYMS) - known == set()
    words = [words.split() for ours, words in SYNONYMS.items() if ours[0] == "-" or "." in ours]
    assert max(Counter(itertools.chain(*words)).values()) == 1


@pytest.mark.parametrize(
    ("word", "paper"),
    {
        "linknet": "smp/linknet_resnet18",
        "unet++": "smp/unetplusplus_resnet34",
        "DeepLabV3+": "deeplabv3plus",
        "deeplab": "deeplabv3plus",
        "U-Net": "unet",
        "psp": "pspnet",
        "stdc1": "stdc/stdc1",
        "BiSeNet": "bisenet",
        "hrnnet": "hrnet",
        "mask2former": "",
    }.items(),
)
def test_a_networks_other_name_leads_to_its_row_and_a_far_one_to_none(
    word: str, paper: str
) -> None:
    hint = f"did you mean {paper}? " if paper else ""
    with pytest.raises(UserError, match=re.escape(f"no paper {word}; {hint}there are {FIRST}, ")):
        row_patterns.row_address(word)


WRONG_OPTIONS = {  # words of a command, and what is said of them
    "--learning-rate 1": "there is no option --learning-rate; did you mean recipe.lr=VALUE?",
    "--epochs 3": "there is no option --epochs; did you mean recipe.iterations=VALUE?",
    "--weights FILE": "there is no option --weights; did you mean --init?",
    "--device cuda": "there is no option --device; did you mean trainer.accelerator=VALUE?",
    "--zebra": "there is no option --zebra; there are --help, ",
    "--seed abc": "--seed abc: it is a whole number from 0 up",
    "--seed": "--seed takes one argument; see --help",
    "--smoke=1": "--smoke takes no value; leave out =1",
}


@pytest.mark.parametrize("words", WRONG_OPTIONS)
def test_a_wrong_option_is_answered_in_our_words(words: str, capsys: pytest.CaptureFixture) -> None:
    assert run.main(["--model", "bisenet", *words.split()]) == 2
    assert capsys.readouterr().err.startswith(f"error: {WRONG_OPTIONS[words]}")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("evaluate RUN --lr 1", "there is no option --lr; there are --help, "),
        ("evaluate RUN --protocols --inference whole", "--inference and --protocols cannot both"),
        ("predict", "missing: --out; see --help"),
        (
            "predict a b --out c --device gpu",
            "there is no --device gpu; did you mean cuda? there are auto, ",
        ),
        ("report --format markdwn", "there is no --format markdwn; did you mean markdown? there"),
        (
            "benchmark infr",
            "there is no SUBJECT infr; did you mean infer? there are infer, structures, ",
        ),
        ("evaluate --released stdc1_seg", "--released takes 2 arguments; see --help"),
    ],
)
def test_every_commands_parser_speaks_so(
    words: str, answer: str, capsys: pytest.CaptureFixture
) -> None:
    name, *arguments = words.split()
    assert importlib.import_module(f"experiments.{name}").main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {answer}")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--list"],
        ["--model", "bisenett"],
        ["--model", "bisenet", "--show"],
        ["--modle", "bisenet"],
    ],
)
def test_questions_are_answered_without_importing_torch(words: list[str]) -> None:
    code = (
        "import sys; from experiments import run\n"
        "try:\n run.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


def test_a_refusal_is_one_line_on_the_error_stream_and_exit_code_2(
    capsys: pytest.CaptureFixture,
) -> None:
    assert run.main(["--model", "bisenett"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1


def test_a_wrong_option_names_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert run.main(["--modle", "bisenet"]) == 2
    assert "did you mean --model" in capsys.readouterr().err


def test_show_prints_every_value_and_its_origin(capsys: pytest.CaptureFixture) -> None:
    assert run.main(["--model", "bisenet/no_arm", "--show", "recipe.lr=0.125"]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("recipe.lr "))
    assert line.split() == ["recipe.lr", "0.125", "command", "line"]
    assert all(f"recipe.{name}" in printed for name in Recipe.__dataclass_fields__)
    departures = printed.partition("not as in the paper (")[2].splitlines()
    assert int(departures[0].removesuffix("):")) == len(departures) - 1
    assert "  recipe.lr 0.025 -> 0.125 (command line)" in departures


@pytest.mark.parametrize(
    ("word", "ending"),
    [
        ("model.encoder=resnet34", "; rows with it: unet/padded, unet/padded_bilinear"),
        ("model.width=x", "it takes a whole number"),  # an option of this row too
        ("model.widht=8", "there are width, border_weight"),  # of no row
        ("recipe.bilinear=true", "inference"),  # of the network, not of the recipe
    ],
)
def test_an_option_that_other_rows_have_is_answered_with_these(word: str, ending: str) -> None:
    with pytest.raises(UserError) as refusal:
        resolve("unet", "streets", [word])
    assert str(refusal.value).endswith(ending)


ODD = ("[/x]", "[bold red]sky", ":car:")  # rich would stumble, paint, or draw a car


def test_names_that_a_person_gave_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from experiments.training import train

    terminal_tables.class_table(as_read(result(iou=dict.fromkeys(ODD, 0.5), miou=0.5)))
    printed = capsys.readouterr().out
    assert [line.split("  ")[0] for line in printed.splitlines()[1:4]] == list(ODD)
    assert (
        run.main(["--model", "bisenet", "--data", "folder", "--show", f"data.root={ODD[0]}"]) == 0
    )
    assert f" {ODD[0]} " in capsys.readouterr().out
    for name in ODD:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "result.json").touch()
        train.say_where(tmp_path / name)
        assert capsys.readouterr().out == f"result       {tmp_path / name / 'result.json'}\n"


def test_list_names_every_row_with_what_it_costs(capsys: pytest.CaptureFixture) -> None:
    assert run.main(["--list"]) == 0
    printed = capsys.readouterr().out
    main_row = next(line for line in printed.splitlines() if "bisenet/resnet18 (main)" in line)
    assert "13.19M      12.89M     58.3G @ 768x1536" in main_row
    assert all(
        f"{paper}/{row}" in printed
        for paper, entry in catalogue.catalogue()["papers"].items()
        for row in entry["rows"]
    )


def test_our_score_in_the_list_names_its_protocol_where_the_figure_has_another() -> None:
    figure = PublishedFigure(**published(protocol="768x1536, labels at 1/8"))
    ours = as_read(result(data="cityscapes", protocol="resized:0.75", miou=0.748))
    assert terminal_tables.ours_shown(None, figure) == "not measured"
    assert terminal_tables.ours_shown(ours, None) == "74.8"
    assert terminal_tables.ours_shown(ours, replace(figure, protocol="resized:0.75")) == "74.8"
    assert terminal_tables.ours_shown(ours, figure) == "74.8 (val, resized:0.75)"


REGENERATE = "run `python -m experiments.command_line.catalogue`"


@pytest.mark.catalogue
@pytest.mark.parametrize("name", catalogue.catalogue()["papers"])
def test_the_stored_catalogue_says_of_a_paper_what_its_file_says(name: str) -> None:
    stored = catalogue.stored_entry(catalogue.FOLDER, "papers", name)
    entry = {"hash": stored["hash"]} | catalogue.paper_entry(name)
    assert json.dumps(entry) == json.dumps(stored), REGENERATE


def test_the_stored_catalogue_names_every_paper_data_set_and_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As their files are now; what it says of each paper is another test's."""

    def without_hash(name: str) -> dict:
        stored = catalogue.stored_entry(catalogue.FOLDER, "papers", name)
        return {key: value for key, value in stored.items() if key != "hash"}

    monkeypatch.setattr(catalogue, "paper_entry", without_hash)
    catalogue.write(tmp_path)
    made, stored = (
        {file.relative_to(folder): file.read_text() for file in folder.rglob("*.json")}
        for folder in (tmp_path, catalogue.FOLDER)
    )
    assert made == stored, REGENERATE
    catalogue.write(tmp_path / "some", ["fcn", "streets"])
    written = {file.name for file in (tmp_path / "some").rglob("*.json")}
    assert written == {"fcn.json", "streets.json"}
    with pytest.raises(ValueError, match="no fnc"):
        catalogue.write(tmp_path, ["fnc"])


def test_a_changed_paper_is_imported_again_and_an_unchanged_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported: list[str] = []
    known = catalogue.catalogue()
    hashed = catalogue.hashed

    def changed_bisenet(files: list[Path]) -> str:
        return "other" if files[0].stem == "bisenet" else hashed(files)

    def entry(name: str) -> dict:
        imported.append(name)
        return catalogue.stored_entry(catalogue.FOLDER, "papers", name)

    monkeypatch.setattr(catalogue, "hashed", changed_bisenet)
    monkeypatch.setattr(catalogue, "paper_entry", entry)
    assert catalogue.catalogue.__wrapped__() == known
    assert imported == ["bisenet"]


def test_a_row_is_stored_as_its_difference_from_the_main_row_and_read_in_full() -> None:
    main = catalogue.usual_row() | {"parameters": 5, "published": [1]}
    row = main | {"published": [], "recipe": main["recipe"] | {"lr": 0.5}}
    stored = catalogue.difference(row, main)
    assert stored == {"published": [], "recipe": {"lr": 0.5}}
    assert catalogue.changed(main, stored) == row
    paper = {"main": "a", "rows": {"b": stored, "a": {"parameters": 5, "published": [1]}}}
    assert catalogue.in_full(paper)["rows"] == {"b": row, "a": main}


# --- Ctrl-C

WAITING = """
import threading, time
from experiments.command_line.errors import run_main

def main():
    threading.Thread(target=time.sleep, args=(120,)).start()
    try:
        print("begun", flush=True)
        time.sleep(120)
    except KeyboardInterrupt:
        return 130

print(run_main(main), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_heard_where_a_shell_ignored_it_and_a_second_one_ends_at_once() -> None:
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{WAITING}"
    child = subprocess.Popen(
        [sys.executable, "-c", ignoring],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "130\n"
        child.send_signal(signal.SIGINT)  # while Python waits for the thread
        assert (child.wait(120), child.stderr.read()) == (-signal.SIGINT, "")
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("program", ["predict", "evaluate"])
def test_a_long_program_ends_so(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "run_main", lambda main: 7)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "experiments" / f"{program}.py"), run_name="__main__")
    assert stopped.value.code == 7


# --- networks and rows: one language in all commands

NETWORKS = [  # a word, and what is said of it
    ("nowhere.ckpt", "there is no nowhere.ckpt; give a .ckpt file or the folder of a run"),
    ("runs/othre.ckpt", "there is no runs/othre.ckpt (did you mean runs/other.ckpt?); give"),
    ("runs", "runs holds no checkpoints/last.ckpt (did you mean runs/one?); give"),
    ("released:bisenet", "released:bisenet is not understood; write released:NAME=FILE"),
    ("released:=a.pth", "released:=a.pth is not understood; write released:NAME=FILE"),
    ("released:bisenet=a.pth", "there is no file a.pth; give the authors' checkpoint"),
    ("released:bisenet=runs", "runs is a folder; give the authors' checkpoint, a file"),
]
PROGRAMS = {
    "evaluate": ["{}"],
    "evaluate --beside": ["runs/one", "--page", "page.html", "--beside", "{}"],
    "predict": ["{}", "image.png", "--out", "out"],
    "export": ["{}", "--check"],
    "benchmark infer": ["infer", "{}"],
    "run --init": ["--model", "bisenet/xception39", "--smoke", "--init", "{}"],
}


@pytest.fixture
def one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "one" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "runs" / "other.ckpt").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("one_run")
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("word", "answer"), NETWORKS)
def test_every_command_refuses_the_same_networks_in_the_same_words(
    program: str, word: str, answer: str, capsys: pytest.CaptureFixture
) -> None:
    command = importlib.import_module(f"experiments.{program.split()[0]}")
    assert command.main([each.format(word) for each in PROGRAMS[program]]) == 2
    assert f"error: {answer}" in capsys.readouterr().err


@pytest.mark.usefixtures("one_run")
def test_every_network_word_means_one_checkpoint() -> None:
    last = Path("runs/one/checkpoints/last.ckpt")
    for word in ("runs/one", "runs/one/checkpoints", str(last)):
        assert networks.parse_network(word) == last
    best = last.with_name("best.ckpt")
    best.touch()
    for word in ("runs/one", "runs/one/checkpoints"):
        assert networks.parse_network(word) == networks.parse_network(word, "best") == best
        assert networks.parse_network(word, "last") == last
    authors = networks.parse_network(f"released:bisenet={last}")
    assert authors == networks.ReleasedCheckpoint("bisenet", last)
    assert networks.parse_network(str(authors)) == authors


@pytest.mark.usefixtures("one_run")
def test_a_checkpoint_is_chosen_in_a_run_folder_alone(capsys: pytest.CaptureFixture) -> None:
    for word in ("runs/other.ckpt", "released:bisenet=runs/other.ckpt"):
        for program in ("evaluate", "predict", "export"):
            command = importlib.import_module(f"experiments.{program}")
            words = [each.format(word) for each in PROGRAMS[program]]
            assert command.main([*words, "--checkpoint", "last"]) == 2
            answer = f"error: {word} is a file, not a run folder; leave out --checkpoint last\n"
            assert capsys.readouterr().err == answer
    assert evaluate.main(["runs/one", "--checkpoint", "best"]) == 2
    assert "runs/one holds no checkpoints/best.ckpt; give" in capsys.readouterr().err
    released = ["--released", "bisenet", "runs/other.ckpt", "--checkpoint", "last"]
    assert evaluate.main(released) == 2
    assert "--checkpoint is of a run folder; leave it out" in capsys.readouterr().err


def test_a_missing_start_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("start", "sweep"):
        monkeypatch.setattr(run, name, None)
    for words in (["--model", "bisenet"], ["--model", "stdc/*"]):
        assert run.main([*words, "--init", "missing.ckpt"]) == 2
        assert "error: there is no missing.ckpt; give a .ckpt file" in capsys.readouterr().err


ROWS = {  # a word, and what is said of it by every command that takes rows
    "bisenett": f"there is no paper bisenett; did you mean bisenet? there are {FIRST}, ",
    "bisenet/no_ram": "there is no row bisenet/no_ram; did you mean bisenet/no_arm? there are ",
    "stdcc/*": f"no row matches stdcc/*; did you mean stdc/*? there are the papers {FIRST}, ",
    "stdc/x*": "no row matches stdc/x*; stdc has stdc1, stdc2",
    "stdc/*,bisenett": "there is no paper bisenett; did you mean bisenet? ",
}


@pytest.mark.parametrize("word", ROWS)
@pytest.mark.parametrize(
    "arguments", [["run", "--model"], ["export", "--check", "--model"], ["benchmark", "infer"]]
)
def test_every_command_refuses_the_same_rows_in_the_same_words(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture
) -> None:
    command = importlib.import_module(f"experiments.{arguments[0]}")
    assert command.main([*arguments[1:], word]) == 2
    assert f"error: {ROWS[word]}" in capsys.readouterr().err


def test_every_command_takes_the_same_patterns_of_rows() -> None:
    from experiments.benchmarks import network_speed

    for word in ("stdc", "stdc/*", "stdc/no_*, stdc, fcn"):
        rows = row_patterns.matching_rows(word)
        assert network_speed.sources(word) == rows


# --- options that were spelled in another way before


def test_labeled_may_be_spelled_with_two_ls() -> None:
    words = ["data.labelled=1/8", "data.unlabelled=4", "semi.batch_norm=labelled"]
    resolved = resolve("bisenet", "camvid", words, semi="mean_teacher")
    assert (resolved.data["labeled"], resolved.data["unlabeled"]) == ("1/8", 4)
    assert resolved.semi["batch_norm"] == "labeled"
    assert "data.labeled all -> 1/8 (command line)" in resolved.departures


def test_a_run_folder_of_before_is_read_with_the_names_of_now(tmp_path: Path) -> None:
    stored = {
        "schema": 1,
        "data": {"root": "labelled", "labelled": "1/8"},
        "semi": {"batch_norm": "labelled"},
        "origins": {"data.labelled": "command line"},
    }
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config = read_config(tmp_path)
    assert config["data"] == {"root": "labelled", "labeled": "1/8"}
    assert config["semi"] == {"batch_norm": "labeled"}
    assert config["origins"] == {"data.labeled": "command line"}
