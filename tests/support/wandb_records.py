"""Read the records of an offline W&B run, which lie in a log as LevelDB writes it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768  # bytes; a record that reaches beyond is cut into parts
HEAD = 7  # bytes of a part: checksum 4, length 2, kind 1; the file itself begins with as many
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(run: Path) -> list[Record]:
    """All records of the one offline run in a run folder."""
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    return [Record.FromString(content) for content in contents(file.read_bytes())]


def contents(log: bytes) -> Iterator[bytes]:
    place = HEAD
    record = b""
    while place + HEAD <= len(log):
        left = BLOCK - place % BLOCK
        if left < HEAD:
            place += left
            continue
        length = int.from_bytes(log[place + 4 : place + 6], "little")
        kind = log[place + 6]
        assert kind in (WHOLE, FIRST, MIDDLE, LAST)
        place += HEAD
        record += log[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def history(found: list[Record]) -> list[dict[str, Any]]:
    """What was logged, a dict each time."""
    return [as_dict(each.history.item) for each in found if each.HasField("history")]


def summary(found: list[Record]) -> dict[str, Any]:
    """What the summary was set to, the latest value of each name."""
    values: dict[str, Any] = {}
    for each in found:
        if each.HasField("summary"):
            values |= as_dict(each.summary.update)
    return values


def as_dict(items: Any) -> dict[str, Any]:
    named = {}
    for item in items:
        named["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return named
