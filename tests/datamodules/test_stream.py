"""Streams: the same pixels as the files from a folder and from a store (a server in this test that speaks S3's GET and HEAD)."""

import json
import os
import pickle
import shutil
import sys
import threading
import zlib
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
from datamodules.labels import CITYSCAPES
from datamodules.packs import stream
from datamodules.packs.format import Pack
from experiments import pack
from tests.support import trees
from tests.support.data import QUIET, Witness, as_rank, complaint
from tests.support.packs import SIZE, assert_same, packed, source

pytest.importorskip("zstandard")
pytest.importorskip("litdata", reason="streams need litdata: pip install 'segmodels[stream]'")
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*treespec, LeafSpec.*", "ignore:Checkpoint directory .* not empty"
    ),
    pytest.mark.filterwarnings(
        "ignore:unclosed file .*:ResourceWarning"
    ),  # litdata leaves the chunk it has open to the collector
]
SETTINGS = {"crop": (64, 96), "scales": (0.5, 1.5), "continuous": True, "batch": 4, "iterations": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Files, packs and streams of the same images."""
    root = tmp_path_factory.mktemp("stream")
    trees.cityscapes(root / "city", {"train": 5, "val": 3}, SIZE)
    packed(root / "city", root / "packs")
    assert pack.main(["--stream", str(root / "packs"), "--out", str(root / "streams")]) == 0
    return root / "city", root / "packs", root / "streams"


class Store:
    """Buckets below a folder, over HTTP, counting what is asked for."""

    def __init__(self, root: Path) -> None:
        store, self.asked, self.broken = self, Counter(), 0

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
                if store.broken and last - first > 8:
                    store.broken -= 1
                    self.close_connection = True
                    return self.reply(206, content[first : last + 1], cut=True)
                self.reply(206, content[first : last + 1])

            do_HEAD = do_GET

            def reply(self, status: int, content: bytes, cut: bool = False) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", '"0"')
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
        return sum(count for what, count in self.asked.items() if what.startswith("GET chunk"))


@pytest.fixture
def store(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """s3://bucket/deep is the folder of streams."""
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    shutil.copytree(folders[2], tmp_path / "served" / "bucket" / "deep")
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


def test_a_stream_gives_every_window_of_the_files(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    files, _, streams = folders
    found = source(streams)
    assert isinstance(found, stream.Stream)
    assert_same(found, source(files))
    assert_same(pickle.loads(pickle.dumps(found)), source(files))
    assert_same(source(streams, "val"), source(files, "val"))
    kept = city(streams, cache=str(tmp_path / "cache")).open("train")
    for _ in range(2):  # made, then out of the cache
        assert_same(kept, source(files))
    assert len(list(kept.kept.iterdir())) == 5


def test_raw_packs_are_streamed_too(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    raw = packed(folders[0], tmp_path / "raw", "--form", "raw", "--splits", "train")
    assert pack.main(["--stream", str(raw), "--out", str(tmp_path / "out")]) == 0
    assert_same(
        city(tmp_path / "out", cache=str(tmp_path / "cache")).open("train"), source(folders[0])
    )


def test_a_stream_keeps_the_numbers_of_the_files(folders: tuple[Path, Path, Path]) -> None:
    files, _, streams = folders
    plain = stream.Stream(str(streams / "cityscapes-train.stream"))
    assert all(
        np.array_equal(plain.label(index), source(files).numbers(index)) for index in range(5)
    )


def test_litdata_alone_finds_the_records_of_the_pack(folders: tuple[Path, Path, Path]) -> None:
    from litdata import StreamingDataset

    found, plain = (
        Pack(folders[1] / "cityscapes-val.pack"),
        StreamingDataset(str(folders[2] / "cityscapes-val.stream")),
    )
    assert len(plain) == 4 and [plain[1 + n] for n in range(3)] == [
        bytes(found.record(n)) for n in range(3)
    ]


# --- the same batches


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_batches_are_those_of_the_files_whatever_workers_and_ranks(
    workers: int, world: int, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    for rank in range(world):
        streamed = city(folders[2], workers=workers, cache=str(tmp_path / "cache"))
        assert_equal(batches(streamed, rank, world), batches(city(folders[0]), rank, world))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("remote", [False, True])
def test_a_resumed_run_is_given_exactly_the_batches_that_are_left(
    workers: int, remote: bool, folders: tuple[Path, Path, Path], store: Store, tmp_path: Path
) -> None:
    root = "s3://bucket/deep" if remote else folders[2]
    straight, after = Witness(), Witness()
    trainer = QUIET | {"val_check_interval": 3}
    lightning.Trainer(**trainer, max_steps=8, enable_checkpointing=False).fit(
        straight, datamodule=city(folders[0])
    )
    first, second = (
        [ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")]
        for _ in range(2)
    )
    settings = {"workers": workers, "cache": str(tmp_path / "cache")}
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


def test_each_thread_and_process_has_a_reader_of_its_own(folders: tuple[Path, Path, Path]) -> None:
    found = source(folders[2])
    (here,) = found.free
    assert found.reader() is here and found.reader() is not here
    found.free.append(here)
    assert not pickle.loads(pickle.dumps(found)).free
    found.process = -1  # as a forked process finds it
    assert found.reader() is not here


def test_many_threads_read_what_one_reads(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Chunks of one or two images, so that a reader that were shared would close what another looks at."""
    monkeypatch.setattr(stream, "CHUNK", 200_000)
    stream.write(Pack(folders[1] / "cityscapes-train.pack"), tmp_path / "cityscapes-train.stream")
    assert len(list((tmp_path / "cityscapes-train.stream").glob("*.bin"))) > 2
    found, plain = source(tmp_path), source(folders[0])
    right = [plain.window(index) for index in range(5)]
    with ThreadPoolExecutor(4) as pool:
        for number, pair in enumerate(
            pool.map(lambda number: found.window(number % 5), range(400))
        ):
            assert all(np.array_equal(a, b) for a, b in zip(pair, right[number % 5], strict=True))
    assert 1 <= len(found.free) <= 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_is_asked_once_for_what_the_cache_holds(
    workers: int, folders: tuple[Path, Path, Path], store: Store, tmp_path: Path
) -> None:
    data = city("s3://bucket/deep", workers=workers, cache=str(tmp_path / "cache"), iterations=20)
    assert_equal(batches(data), batches(city(folders[0], iterations=20)))
    assert (
        store.ranges <= 2 * (1 + 5 + 1 + 3) + 2 * workers * 5
    )  # two requests an item; threads may meet at an image
    asked = store.ranges
    assert_equal(
        batches(city("s3://bucket/deep", workers=0, cache=str(tmp_path / "cache"))),
        batches(city(folders[0])),
    )
    assert store.ranges == asked + 2 * 2, "only what there is, of train and val, is asked for again"


def test_a_small_cache_keeps_validation_first_and_stays_as_it_is(
    folders: tuple[Path, Path, Path], store: Store, tmp_path: Path
) -> None:
    index = [Pack(folders[1] / f"cityscapes-{split}.pack") for split in ("val", "train")]
    lengths = [[len(each.record(number)) for number in range(len(each))] for each in index]
    room = (sum(lengths[0]) + lengths[1][0] + lengths[1][1] + 1) / 1e9
    data = city("s3://bucket/deep", cache=str(tmp_path / "cache"), cache_gb=room)
    assert_same(data.open("val"), source(folders[0], "val"))
    assert_same(data.open("train"), source(folders[0]))
    kept = [
        sorted(file.name for file in data.open(split).kept.iterdir()) for split in ("val", "train")
    ]
    assert kept == [
        ["000000.record", "000001.record", "000002.record"],
        ["000000.record", "000001.record"],
    ]
    before = store.ranges
    for number in range(5):
        data.open("train").window(number)
    assert store.ranges == before + 2 * 3


def test_without_a_cache_nothing_is_kept(store: Store, tmp_path: Path) -> None:
    found = city("s3://bucket/deep").open("train")
    before = store.ranges
    found.window(0)
    found.window(0)
    assert found.held(0) is None and store.ranges == before + 4


def test_a_broken_connection_is_made_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []
    monkeypatch.setattr(
        stream, "time", SimpleNamespace(sleep=pauses.append)
    )  # not the sleep of other threads
    found = city("s3://bucket/deep", cache=str(tmp_path / "cache")).open("train")
    store.broken, client = 2, found.free[0]
    assert found.window(1)[0].shape == (*SIZE, 3) and pauses == [1, 4]
    assert client not in found.free and len(found.free) == 1
    store.broken = 9
    complaint(
        lambda: found.window(3),
        "s3://bucket/deep/cityscapes-train.stream",
        "cannot be read",
        "check the address",
    )


# --- what is wrong


def test_damage_in_the_cache_is_read_again_from_the_store(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    found = city(folders[2], cache=str(tmp_path / "cache")).open("train")
    found.window(1)
    file = found.file(1)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    assert_same(found, source(folders[0]))
    assert as_written(found, 1)
    file.write_bytes(content[:100])
    assert_same(found, source(folders[0]))
    assert as_written(found, 1)


def as_written(found: stream.Stream, index: int) -> bool:
    return zlib.crc32(found.file(index).read_bytes()) == found.checksums[index]


def test_damage_in_the_store_is_named(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[2], tmp_path / "streams")
    found = city(tmp_path / "streams").open("train")
    (chunk,) = (tmp_path / "streams" / "cityscapes-train.stream").glob("*.bin")
    content = bytearray(chunk.read_bytes())
    content[-1000] ^= 4
    chunk.write_bytes(content)
    again = pickle.loads(pickle.dumps(found))
    complaint(lambda: again.window(4), "was changed or is damaged at", found.names[4])


def test_damage_in_the_pack_is_not_streamed(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(folders[1], tmp_path / "packs")
    file = tmp_path / "packs" / "cityscapes-val.pack"
    place, content = int(Pack(file).blobs(1)[0]) + 40, bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    assert pack.main(["--stream", str(tmp_path / "packs"), "--out", str(tmp_path / "out")]) == 2
    assert (
        f"{file} is damaged in" in capsys.readouterr().err
        and not (tmp_path / "out" / "cityscapes-val.stream").exists()
    )


def rewritten(folder: Path, start: bytes, **changes: object) -> None:
    """A litdata folder whose first item says something else."""
    from litdata.streaming import Cache

    shutil.rmtree(folder)
    cache = Cache(str(folder), chunk_bytes=1000)
    cache[0] = start + stream.framed({"names": [], "version": 1} | changes)
    cache.done()
    cache.merge()


@pytest.mark.parametrize(
    ("start", "changes", "words"),
    [
        (b"SEGSTRM2", {}, "is a stream of another version than 1"),
        (b"SEGSTRM1", {"version": 2}, "is a stream of version 2, and this reads 1"),
        (b"anything", {}, "is litdata's, but no stream of images and labels"),
    ],
)
def test_another_version_is_named_before_training(
    start: bytes, changes: dict, words: str, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[2], tmp_path / "streams")
    rewritten(tmp_path / "streams" / "cityscapes-train.stream", start, **changes)
    complaint(lambda: source(tmp_path / "streams"), "cityscapes-train.stream", words)


def test_a_stream_of_other_images_than_asked_for_is_refused(
    folders: tuple[Path, Path, Path],
) -> None:
    complaint(
        lambda: city(folders[2], training="coarse").open("train"),
        "was packed with data.training=fine and not coarse",
    )


def test_a_place_that_is_not_there_is_named(
    folders: tuple[Path, Path, Path], store: Store, tmp_path: Path
) -> None:
    complaint(
        lambda: city("s3://bucket/elsewhere").open("train"),
        "s3://bucket/elsewhere/cityscapes-train.stream cannot be read",
    )
    complaint(
        lambda: city("https://bucket/deep").open("train"), "data.root=https://bucket/deep", "s3://"
    )
    complaint(
        lambda: city(folders[2].with_name("stream")).open("train"),
        "there is no folder",
        "did you mean",
    )
    (tmp_path / "cityscapes-train.stream").mkdir()
    complaint(lambda: city(tmp_path).open("train"), "cityscapes-train.stream cannot be read")


def test_a_cache_that_cannot_be_written_is_named(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    complaint(
        lambda: city(folders[2], cache=str(tmp_path / "cache")).open("train"),
        "the cache",
        "cannot be written",
        "data.cache",
    )


def test_a_cache_for_what_is_no_stream_is_refused(folders: tuple[Path, Path, Path]) -> None:
    for root in folders[:2]:
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
        lambda: city("s3://bucket/deep").open("train"),
        "cannot be read (Could not connect",
        "check the address",
    )


def test_a_google_store_says_which_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    complaint(
        lambda: city("gs://bucket/deep").open("train"),
        "gs://bucket/deep",
        "pip install google-cloud-storage",
    )


def test_without_litdata_one_sentence_says_what_to_install(
    folders: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    complaint(lambda: source(folders[2]), "streams need litdata: pip install 'segmodels[stream]'")
    assert pack.main(["--stream", str(folders[1]), "--out", str(tmp_path)]) == 2
    assert "streams need litdata" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--stream", "PACKS"], "where to?"),
        (["--stream", "nowhere", "--out", "x"], "holds no .pack file"),
        (None, "is there already"),
    ],
)
def test_what_cannot_be_streamed_is_refused_in_a_sentence(
    words: list[str] | None,
    answer: str,
    folders: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pack.main(words or ["--stream", str(folders[1]), "--out", str(folders[2])]) == 2
    assert answer in capsys.readouterr().err


def test_an_interrupted_writing_leaves_nothing_that_looks_whole(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    def stopped(numbers: range) -> Iterator[int]:
        yield from list(numbers)[:2]
        raise KeyboardInterrupt

    target = tmp_path / "cityscapes-train.stream"
    with pytest.raises(KeyboardInterrupt):
        stream.write(Pack(folders[1] / "cityscapes-train.pack"), target, progress=stopped)
    assert not target.exists()
    stream.write(Pack(folders[1] / "cityscapes-train.pack"), target)
    assert_same(stream.Stream(str(target), CITYSCAPES), source(folders[0]))
    assert json.loads((target / "index.json").read_text())["chunks"][0]["chunk_size"] == 6


def test_a_data_error_is_not_asked_for_twice(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "time", SimpleNamespace(sleep=lambda _: pytest.fail("waited")))
    with pytest.raises(DataError):
        stream.Stream(str(folders[0]), CITYSCAPES)
