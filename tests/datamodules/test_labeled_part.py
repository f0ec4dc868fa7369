"""Tests of the choice of labeled images: shares, counts, published lists, files of names."""

import gzip
import hashlib
import json
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from datamodules import DataError
from datamodules.module import SegmentationData
from datamodules.sampling import labeled_part
from datamodules.sampling.labeled_part import chosen, stored
from tests.support.data import Noise, as_rank

SIZES = {"1/8": 372, "1/4": 744, "1/2": 1488, "1/16": 186, "1/30": 100, "100": 100, "1/1": 2975}


def seven(labeled: str) -> SegmentationData:
    return as_rank(Noise(crop=(8, 8), batch=4, iterations=6, semi=True, labeled=labeled), 0, 1)


@pytest.mark.parametrize(("words", "count"), SIZES.items())
def test_parts_have_the_sizes_of_the_published_lists_and_lie_in_each_other(
    words: str, count: int
) -> None:
    cityscapes = [f"image{index}" for index in range(2975)]
    found = chosen(cityscapes, words)
    assert len(set(found)) == count
    assert found == sorted(found)
    assert found == chosen(cityscapes, words)
    assert count == 2975 or set(found) != set(chosen(cityscapes, f"{words}:1"))
    assert count > 1488 or set(found) <= set(chosen(cityscapes, "1/2"))


def test_a_file_may_name_the_labeled_images(tmp_path: Path) -> None:
    file = tmp_path / "labeled.txt"
    file.write_text("000004\n\n000001\n")
    assert seven(str(file)).part(True).names == ("000001", "000004")
    file.write_text("000009\n")
    with pytest.raises(
        DataError, match=r"names 1 images that the training set does not have \(000009"
    ):
        seven(str(file)).part(True)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("1/0.5", "is no file and no part"),
        ("99", "99 of 7 training images"),
        ("0/8", "0 of 7"),
        ("half", "is no file"),
        (
            "unimatch:1/9",
            "there is no published list unimatch:1/9; there are cityscapes: .*unimatch:1/8",
        ),
        (
            "unimatch:1/8",
            "a list for cityscapes and voc, and these 7 training images are not all of theirs",
        ),
    ],
)
def test_parts_that_cannot_be_are_refused(words: str, answer: str) -> None:
    with pytest.raises(DataError, match=answer):
        seven(words).part(True)


# --- published lists

PUBLISHED = {  # the counts that UniMatch's and U2PL's tables name
    "cityscapes": {
        "unimatch:1/30": 100,
        "unimatch:1/16": 186,
        "unimatch:1/8": 372,
        "unimatch:1/4": 744,
        "unimatch:1/2": 1488,
    },
    "voc": {
        **{f"unimatch:{count}": count for count in (92, 183, 366, 732, 1464)},
        **{
            f"{who}:1/{part}": count
            for who in ("unimatch", "u2pl")
            for part, count in ((16, 662), (8, 1323), (4, 2646))
        },
    },
}


def test_the_published_lists_are_there_with_their_counts() -> None:
    assert {
        data: {words: len(set(names)) for words, names in lists.items()}
        for data, lists in stored().items()
    } == PUBLISHED


@pytest.mark.parametrize("data", PUBLISHED)
def test_a_published_list_is_taken_for_the_data_set_it_belongs_to(data: str) -> None:
    lists = stored()[data]
    everything = sorted({name for names in lists.values() for name in names} | {"one more"})
    for words, wanted in lists.items():
        assert [everything[index] for index in chosen(everything, words)] == sorted(wanted)
    with pytest.raises(DataError, match=f"{lists['unimatch:1/8'][0]} is missing"):
        chosen([name for name in everything if name != lists["unimatch:1/8"][0]], "unimatch:1/8")


def test_the_lists_lie_in_each_other_as_published() -> None:
    voc, cityscapes = stored()["voc"], stored()["cityscapes"]
    assert (
        set(cityscapes["unimatch:1/16"])
        <= set(cityscapes["unimatch:1/8"])
        <= set(cityscapes["unimatch:1/2"])
    )
    assert all(
        set(voc[f"unimatch:{part}"]) <= set(voc["unimatch:1464"]) for part in (92, 183, 366, 732)
    )
    assert set(voc["unimatch:1/8"]) != set(voc["u2pl:1/8"])


def test_a_changed_list_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["one", "two"]
    entry = {"sha256": hashlib.sha256(b"one\ntwo").hexdigest(), "names": names}
    file = tmp_path / "streets.json.gz"
    monkeypatch.setattr(labeled_part, "LISTS", tmp_path)
    file.write_bytes(
        gzip.compress(json.dumps({"source": "here", "lists": {"mine:1/2": entry}}).encode())
    )
    assert chosen(["two", "three", "one"], "mine:1/2") == [0, 2]
    entry["names"][0] = "three"
    file.write_bytes(
        gzip.compress(json.dumps({"source": "here", "lists": {"mine:1/2": entry}}).encode())
    )
    with pytest.raises(
        DataError, match=r"streets\.json\.gz is not as it was published \(mine:1/2\)"
    ):
        chosen(["two", "three", "one"], "mine:1/2")


def test_an_installed_package_has_the_lists() -> None:
    settings = tomllib.loads((labeled_part.LISTS.parents[1] / "pyproject.toml").read_text())[
        "tool"
    ]["setuptools"]
    patterns = settings["package-data"]["datamodules"]
    files = [
        str(file.relative_to(labeled_part.LISTS.parent)) for file in labeled_part.LISTS.iterdir()
    ]
    assert len(files) == 2
    assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in files)
