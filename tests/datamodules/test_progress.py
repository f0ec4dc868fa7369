"""Tests of the progress bar: it passes everything on, and is shown in a terminal but not a log."""

import pytest

from datamodules.progress import with_progress


def test_a_walk_under_a_bar_gives_every_item_and_tells_a_log_nothing(
    capfd: pytest.CaptureFixture,
) -> None:
    assert list(with_progress(range(3), "counting")) == [0, 1, 2] and list(
        with_progress(iter("ab"), "spelling", 4, done=2)
    ) == ["a", "b"]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_reads_what_is_done_as_it_is_written(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    walk = with_progress(iter("ab"), "reading [bold]val", 4, done=2)
    assert next(walk) == "a" and list(walk) == ["b"]
    said, drawn = capfd.readouterr()
    assert not said and "[bold]val" in drawn and "100%" in drawn
    assert list(with_progress(["alone"], "one")) == ["alone"] and not capfd.readouterr().err


def test_what_fails_under_a_bar_fails_and_an_item_is_asked_for_in_its_turn() -> None:
    asked: list[int] = []

    def numbers() -> object:
        for each in range(3):
            asked.append(each)
            yield each
        raise ValueError("no more")

    walk = with_progress(numbers(), "counting", 9)
    assert next(walk) == 0 and asked == [0]
    with pytest.raises(ValueError, match="no more"):
        list(walk)
