"""Tests of packs in an object store, which give the same pixels as the files.

A server in this file speaks S3's GET and HEAD.
"""

import os
import pickle
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import Cityscapes, DataError
from datamodules.packs import object_store
from datamodules.packs.format import Pack
from datamodules.packs.object_store import RemotePack
from tests.support import trees
from tests.support.data import QUIET, Witness, as_rank, complaint
from tests.support.packs import SIZE, assert_same, packed, source

pytest.importorskip("zstandard")
pytest.importorskip("obstore", reason="a store needs obstore: pip install 'segmodels[stream]'")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec.*", "ignore:Checkpoint directory .* not empty"
)
SETTINGS = {"crop": (64, 96), "scales": (0.5, 1.5), "continuous": True, "batch": 4, "iterations": 8}
DEEP = "s3://bucket/deep"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files and packs of the same images."""
    root = tmp_path_factory.mktemp("store")
    trees.cityscapes(root / "city", {"train": 5, "val": 3}, SIZE)
    packed(root / "city", root / "packs")
    return root / "city", root / "packs"


class Store:
    """Buckets below a folder, over HTTP, counting what is asked for."""

    def __init__(self, root: Path) -> None:
        store, self.root, self.asked, self.broken = self, root, Counter(), 0

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                file, wanted = root / self.path.lstrip("/"), self.headers.get("Range")
                store.asked[f"{self.command} {file.name}"] += 1
                if not file.is_file():
                    return self.reply(404, b"")
                content = file.read_bytes()
                if not wanted:
                    return self.reply(200, content)
                first, last = (int(word) for word in wanted.removeprefix("bytes=").split("-"))
                span = f"bytes {first}-{last}/{len(content)}"
                if store.broken:
                    store.broken -= 1
                    self.close_connection = True
                    return self.reply(206, content[first : last + 1], span, cut=True)
                self.reply(206, content[first : last + 1], span)

            do_HEAD = do_GET

            def reply(self, status: int, content: bytes, span: str = "", cut: bool = False) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", '"0"')
                self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
                if span:
                    self.send_header("Content-Range", span)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content[: len(content) // 2] if cut else content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def ranges(self) -> int:
        return sum(count for what, count in self.asked.items() if what.startswith("GET"))


@pytest.fixture
def store(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """s3://bucket/deep is the folder of packs."""
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    shutil.copytree(folders[1], tmp_path / "served" / "bucket" / "deep")
    found = Store(tmp_path / "served")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": found.url,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    yield found
    found.server.shutdown()
    found.server.server_close()


def city(root: Path | str, **settings: object) -> Cityscapes:
    return Cityscapes(root, **{"workers": 0} | SETTINGS | settings)


def batches(
    data: Cityscapes, rank: int = 0, world: int = 1
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(as_rank(data, rank, world).train_dataloader())


def assert_equal(one: list, other: list) -> None:
    assert len(one) == len(other) > 0
    for ours, theirs in zip(one, other):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- the same pixels


def test_a_pack_in_a_store_gives_every_window_of_the_files(
    folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    found = source(DEEP)
    assert isinstance(found, RemotePack)
    assert_same(found, source(folders[0]))
    assert_same(pickle.loads(pickle.dumps(found)), source(folders[0]))
    assert_same(source(DEEP, "val"), source(folders[0], "val"))
    kept = city(DEEP, cache=str(tmp_path / "cache")).open("train")
    for _ in range(2):  # fetched, then out of the cache
        assert_same(kept, source(folders[0]))
    assert len(list(kept.folder.iterdir())) == 5


def test_a_web_server_is_a_store_too(folders: tuple[Path, Path], store: Store) -> None:
    assert_same(source(f"{store.url}/bucket/deep/"), source(folders[0]))


def test_raw_packs_are_read_too(folders: tuple[Path, Path], store: Store, tmp_path: Path) -> None:
    packed(folders[0], store.root / "bucket" / "raw", "--form", "raw", "--splits", "train")
    cached = city("s3://bucket/raw", cache=str(tmp_path / "cache"))
    for _ in range(2):
        assert_same(cached.open("train"), source(folders[0]))


def test_a_pack_in_a_store_keeps_the_numbers_of_the_files(
    folders: tuple[Path, Path], store: Store
) -> None:
    plain = RemotePack(f"{DEEP}/cityscapes-train.pack")
    numbers = source(folders[0]).numbers
    assert all(np.array_equal(plain.label(index), numbers(index)) for index in range(5))


# --- the same batches


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_batches_are_those_of_the_files_whatever_workers_and_ranks(
    workers: int, world: int, folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    for rank in range(world):
        remote = city(DEEP, workers=workers, cache=str(tmp_path / "cache"))
        assert_equal(batches(remote, rank, world), batches(city(folders[0]), rank, world))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("remote", [False, True])
def test_a_resumed_run_is_given_exactly_the_batches_that_are_left(
    workers: int, remote: bool, folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    root = DEEP if remote else folders[1]
    straight, after = Witness(), Witness()
    trainer = QUIET | {"val_check_interval": 3}
    lightning.Trainer(**trainer, max_steps=8, enable_checkpointing=False).fit(
        straight, datamodule=city(folders[0])
    )
    first, second = (
        [ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")]
        for _ in range(2)
    )
    settings = {"workers": workers} | ({"cache": str(tmp_path / "cache")} if remote else {})
    lightning.Trainer(**trainer, max_steps=5, callbacks=first).fit(
        Witness(), datamodule=city(root, **settings)
    )
    lightning.Trainer(**trainer, max_steps=8, callbacks=second).fit(
        after,
        datamodule=city(root, **settings),
        ckpt_path=tmp_path / "step=4.ckpt",
        weights_only=True,
    )
    assert len(after.seen) == 4 and after.seen == straight.seen[4:]


# --- the store and the cache


def test_many_threads_read_what_one_reads(folders: tuple[Path, Path], store: Store) -> None:
    found, plain = source(DEEP), source(folders[0])
    right = [plain.window(index) for index in range(5)]
    with ThreadPoolExecutor(4) as pool:
        for number, pair in enumerate(
            pool.map(lambda number: found.window(number % 5), range(200))
        ):
            assert all(np.array_equal(a, b) for a, b in zip(pair, right[number % 5], strict=True))


def test_an_image_is_one_request_and_a_window_needs_no_other(store: Store) -> None:
    found = source(DEEP)
    before = store.ranges
    found.window(0, (0, 0, 9, 9))
    assert store.ranges == before + 1


def test_a_forked_process_is_told_to_be_spawned(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = source(DEEP)
    monkeypatch.setattr(object_store.os, "getpid", lambda: -1)
    monkeypatch.setattr(object_store, "PROCESSES", set(object_store.PROCESSES))
    complaint(lambda: found.window(0), "cannot be read by a forked process", "spawn")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_is_asked_once_for_what_the_cache_holds(
    workers: int, folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    data = city(DEEP, workers=workers, cache=str(tmp_path / "cache"), iterations=20)
    assert_equal(batches(data), batches(city(folders[0], iterations=20)))
    opening = 2 * 3  # the beginning of a pack, its end and its index; train and val
    assert store.ranges <= opening + 5 + 3 + workers * 5  # threads may meet at an image
    asked = store.ranges
    assert_equal(
        batches(city(DEEP, workers=0, cache=str(tmp_path / "cache"))),
        batches(city(folders[0])),
    )
    assert store.ranges == asked + opening, "only what there is is asked for again"


def test_a_small_cache_keeps_validation_first_and_stays_as_it_is(
    folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    val, train = (folders[1] / f"cityscapes-{split}.pack" for split in ("val", "train"))
    third = Pack(train).places[2].span[0]  # the first two end where it begins
    room = (val.stat().st_size + third + 1) / 1e9
    data = city(DEEP, cache=str(tmp_path / "cache"), cache_gb=room)
    assert_same(data.open("val"), source(folders[0], "val"))
    assert_same(data.open("train"), source(folders[0]))
    kept = [
        sorted(file.name for file in data.open(split).folder.iterdir())
        for split in ("val", "train")
    ]
    assert kept == [
        ["000000.record", "000001.record", "000002.record"],
        ["000000.record", "000001.record"],
    ]
    before = store.ranges
    for number in range(5):
        data.open("train").window(number)
    assert store.ranges == before + 3


def test_other_bytes_of_the_same_name_are_not_taken_out_of_the_cache(
    folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    """Not even for a raw pack, whose places depend on nothing but sizes."""
    place = store.root / "bucket" / "raw"
    other = tmp_path / "other"
    shutil.copytree(folders[0], other)
    file = next((other / "leftImg8bit" / "train").rglob("*.png"))
    trees.save(file, 255 - trees.cv2.imread(str(file))[..., ::-1])
    for root, version in ((folders[0], "0"), (other, "1")):
        shutil.rmtree(place, ignore_errors=True)
        packed(root, place, "--form", "raw", "--splits", "train")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BaseHTTPRequestHandler, "send_header", with_tag(version))
            found = city("s3://bucket/raw", cache=str(tmp_path / "cache")).open("train")
        assert_same(found, source(root))


def with_tag(version: str) -> object:
    plain = BaseHTTPRequestHandler.send_header

    def send_header(self: BaseHTTPRequestHandler, name: str, value: str) -> None:
        plain(self, name, f'"{version}"' if name == "ETag" else value)

    return send_header


def test_without_a_cache_nothing_is_kept(store: Store) -> None:
    found = city(DEEP).open("train")
    before = store.ranges
    found.window(0)
    found.window(0)
    assert found.cached(0) is None and store.ranges == before + 2


def test_a_broken_connection_is_made_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []
    # not the sleep of other threads
    monkeypatch.setattr(object_store, "time", SimpleNamespace(sleep=pauses.append))
    found = city(DEEP).open("train")
    store.broken = 2
    assert found.window(1)[0].shape == (*SIZE, 3) and pauses == []  # obstore's own attempts
    store.broken = 8
    assert found.window(1)[0].shape == (*SIZE, 3) and pauses == [1]
    store.broken = 99
    complaint(
        lambda: found.window(3),
        f"{DEEP}/cityscapes-train.pack",
        "cannot be read",
        "check the address",
    )
    assert pauses == [1, 1, 4, 16]


# --- what is wrong


def test_damage_in_the_cache_is_read_again_from_the_store(
    folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    packed(folders[0], store.root / "bucket" / "raw", "--form", "raw", "--splits", "train")
    for root in (DEEP, "s3://bucket/raw"):
        found = city(root, cache=str(tmp_path / "cache")).open("train")
        found.window(1)
        file = found.cache_file(1)
        whole = file.read_bytes()
        content = bytearray(whole)
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
        assert_same(found, source(folders[0]))
        assert file.read_bytes() == whole
        file.write_bytes(content[:100])
        assert_same(found, source(folders[0]))
        assert file.read_bytes() == whole


def test_damage_in_the_store_is_named(store: Store) -> None:
    found = city(DEEP).open("train")
    file = store.root / "bucket" / "deep" / "cityscapes-train.pack"
    content = bytearray(file.read_bytes())
    content[int(found.places[4].bounds[-1]) - 100] ^= 4
    file.write_bytes(content)
    again = pickle.loads(pickle.dumps(found))
    again.window(3)
    complaint(lambda: again.window(4), "was changed or is damaged at", found.names[4])


def test_another_version_is_named_before_training(store: Store) -> None:
    file = store.root / "bucket" / "deep" / "cityscapes-train.pack"
    file.write_bytes(b"SEGPACK2" + file.read_bytes()[8:])
    complaint(lambda: source(DEEP), "cityscapes-train.pack", "is a pack of another version than 1")


def test_a_pack_of_other_images_than_asked_for_is_refused(store: Store) -> None:
    complaint(
        lambda: city(DEEP, training="coarse").open("train"),
        "was packed with data.training=fine and not coarse",
    )


def test_a_place_that_is_not_there_is_named(folders: tuple[Path, Path], store: Store) -> None:
    complaint(
        lambda: city("s3://bucket/elsewhere").open("train"),
        "there is no s3://bucket/elsewhere/cityscapes-train.pack",
        "copy the .pack files themselves",
    )
    complaint(
        lambda: city("ftp://bucket/deep").open("train"), "data.root=ftp://bucket/deep", "s3://"
    )
    complaint(
        lambda: city(folders[1].with_name("pack")).open("train"),
        "there is no folder",
        "did you mean",
    )


def test_a_stream_of_an_earlier_version_is_answered_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cityscapes-train.stream").mkdir()
    complaint(
        lambda: city(tmp_path).open("train"),
        "cityscapes-train.stream is a stream of an earlier version",
        "copy packs in its place",
    )


def test_a_cache_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    complaint(
        lambda: city(DEEP, cache=str(tmp_path / "cache")).open("train"),
        "the cache",
        "cannot be written",
        "data.cache",
    )


def test_a_cache_for_what_is_in_no_store_is_refused(folders: tuple[Path, Path]) -> None:
    for root in folders:
        complaint(
            lambda root=root: city(root, cache="cache").open("train"),
            "data.cache=cache",
            "drop data.cache",
        )


def test_a_store_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    complaint(
        lambda: city(DEEP).open("train"),
        "cannot be read (",
        "error sending request",
        "check the address",
    )


def test_without_obstore_one_sentence_says_what_to_install(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    complaint(lambda: source(DEEP), "need obstore: pip install 'segmodels[stream]'")


def test_the_files_of_the_aws_command_line_are_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = somebody\naws_secret_access_key = something\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert len(source(DEEP)) == 5


def test_a_data_error_is_not_asked_for_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        object_store, "time", SimpleNamespace(sleep=lambda _: pytest.fail("waited"))
    )
    with pytest.raises(DataError):
        RemotePack("s3://bucket/deep/nowhere.pack")
