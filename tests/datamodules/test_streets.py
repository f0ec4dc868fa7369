import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules import Cityscapes, DataError, Streets
from datamodules import streets as writer
from datamodules.labels import CITYSCAPES
from datamodules.scenes import processes, scene
from tests.support.paths import ROOT

SMALL = {"height": 32, "width": 64, "train": 3, "val": 2, "test": 2}


def test_streets_are_the_scenes_of_the_generator_with_train_ids() -> None:
    data = Streets(**SMALL, crop=(16, 32), batch=2, iterations=1)
    data.setup("fit")
    for index in range(3):
        image, ids = scene(0, index, 32, 64)
        window, label = data.sources["train"].window(index)
        assert np.array_equal(window, image) and np.array_equal(label, CITYSCAPES.table[ids])
    assert data.sources.keys() == {"train", "val"}
    assert data.class_names[0] == "road"
    assert len(data.palette) == 19


def test_splits_and_scene_seeds_never_share_a_scene() -> None:
    seen = [
        Streets(**SMALL, scene_seed=seed).open(split).window(index)[0].tobytes()
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for index in range(2)
    ]
    assert len(set(seen)) == len(seen)


def test_streets_on_disk_are_read_back_as_cityscapes(tmp_path: Path) -> None:
    writer.write(tmp_path / "out", Streets(height=40, width=80, train=2, val=1, scene_seed=4))
    assert (
        tmp_path / "out/leftImg8bit/train/streets/streets_000001_000019_leftImg8bit.png"
    ).is_file()
    assert (tmp_path / "out/gtFine/val/streets/streets_000000_000019_gtFine_labelIds.png").is_file()
    data = Cityscapes(tmp_path / "out")
    for split, seed, count in (("train", 12, 2), ("val", 13, 1)):
        source = data.open(split)
        assert len(source) == count
        for index in range(count):
            image, ids = scene(seed, index, 40, 80)
            window, label = source.window(index)
            assert np.array_equal(window, image) and np.array_equal(label, CITYSCAPES.table[ids])


def test_a_folder_that_holds_something_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder: nothing was written"):
        writer.write(tmp_path, Streets(**SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_writing_that_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "write_png", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        writer.write(tmp_path / "out", Streets(**SMALL))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_scenes_and_answers_mistakes_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    words = ["--out", str(tmp_path / "out"), "--train", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "datamodules.streets", *words, "--val", "1", "--size", "32x64"],
        text=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and "1 train and 1 val scenes" in done.stdout, done.stderr
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4 and len(list(tmp_path.iterdir())) == 1
    assert writer.main(words) == 2
    said = capsys.readouterr().err
    assert "nothing was written" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--size", "512"], "256x512"),
        (["--train", "none"], "invalid int value: 'none'"),
    ],
)
def test_a_word_that_is_no_number_is_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        writer.main(["--out", "unused", *words])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--size", "8x128"], "height=8 is not a whole number from 32 up"),
        (["--size", "64x8"], "width=8 is not a whole number from 64 up"),
        (["--train", "0"], "train=0 is not a whole number from 1 up"),
        (["--seed", "-1"], "scene_seed=-1 is not a whole number from 0 up"),
    ],
)
def test_a_number_that_is_too_small_is_refused(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert writer.main(["--out", str(tmp_path / "out"), *words]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"height": 8}, "nearest is 32"),
        ({"train": 0}, "nearest is 1"),
        ({"root": "x"}, "made, not read"),
        ({"scene_seed": -1}, "nearest is 0"),
    ],
)
def test_a_wrong_setting_of_streets_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Streets(**SMALL | wrong)


def test_the_class_weights_of_the_budget_follow_from_the_scenes() -> None:
    pixels = sum(
        np.bincount(CITYSCAPES.table[scene(0, index, 256, 512)[1]].ravel(), minlength=256)[:19]
        for index in range(200)
    )
    assert np.allclose(
        Streets.budget["class_weights"], 1 / np.log(1.1 + pixels / pixels.sum()), rtol=0.05
    )


# --- several processes


def test_several_processes_draw_the_same_bytes_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ENOUGH", 2)
    run, commands = subprocess.run, []

    def recorded(command: list[str], **settings: object) -> subprocess.CompletedProcess:
        commands.append(command)
        return run(command, **settings)

    monkeypatch.setattr(subprocess, "run", recorded)
    drawn = processes.scenes(5, range(1, 8), (32, 64), 3)
    assert len(commands) == 2
    for number, pair in zip(range(1, 8), drawn, strict=True):
        assert all(map(np.array_equal, pair, scene(5, number, 32, 64)))


@pytest.mark.parametrize("executable", ["", "/bin/false", "/bin/true", "/no/such/python"])
def test_where_no_other_process_can_draw_this_one_does(
    executable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ENOUGH", 1)
    monkeypatch.setattr(sys, "executable", executable)
    drawn = processes.scenes(0, range(3), (32, 64), 2)
    assert all(np.array_equal(drawn[n][0], scene(0, n, 32, 64)[0]) for n in range(3))


def test_one_core_or_few_scenes_need_no_other_process() -> None:
    assert processes.shared(range(500), 1) == [range(500)]
    assert processes.shared(range(processes.ENOUGH + 1), 8) == [range(processes.ENOUGH + 1)]
    shares = processes.shared(range(500), 2)
    assert shares == [range(0, 500, 2), range(1, 500, 2)]


def test_scenes_to_validate_on_are_drawn_when_they_are_wanted() -> None:
    """The first ones singly, as the checks before a training want them; then all others at once."""
    data = Streets(**SMALL | {"val": 20}, crop=(16, 32), batch=2, iterations=1)
    data.setup("fit")
    assert len(data.sources["train"].pairs) == 3
    source = data.sources["val"]
    assert sorted(source.pairs) == [0, 10, 19] and len(source) == 20
    for index in range(1, 6):
        source.label(index)
    assert sorted(source.pairs) == [0, 1, 2, 3, 4, 5, 10, 19]
    source.window(0)
    assert source.size(7) == (32, 64) and len(source.pairs) == 20
    for index in range(20):
        image, ids = scene(1, index, 32, 64)
        window, label = source.window(index)
        assert np.array_equal(window, image) and np.array_equal(label, CITYSCAPES.table[ids])


def test_a_script_without_a_guard_is_not_run_again_by_the_other_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from datamodules.scenes import processes\nprocesses.ENOUGH = 1\n"
        "print(len(processes.scenes(0, range(2), (32, 64), 2)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
