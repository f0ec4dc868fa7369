"""Packs in an object store or on a web server: an image is fetched by one request when its turn
comes.

The first images are kept in `data.cache`, one file each, as many as `data.cache_gb` hold, and stay
there: epochs that read every image once in a new order find most in a cache that never changes.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from datamodules.errors import DataError
from datamodules.labels import LabelSet
from datamodules.packs.format import LocalFile, Pack

STORES = ("s3://", "gs://", "https://", "http://")
SPLITS = ("train", "val", "test")
PAUSES = (1, 4, 16)  # seconds before an image is fetched again
PROCESSES: set[int] = set()  # the one that uses obstore, whose threads do not survive a fork
Answer = TypeVar("Answer")


def is_address(root: str | Path) -> bool:
    """Whether root is an address and not a folder."""
    if "://" not in str(root):
        return False
    if not str(root).startswith(STORES):
        raise DataError(
            f"data.root={root} is no address of packs: give one of {', '.join(STORES)}, or a folder"
        )
    return True


class RemoteFile:
    """A file in a store; any number of threads may read it.

    Credentials, endpoint and region come from the usual environment variables and, where boto3 is
    installed, from the files of the AWS command line.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        head = obstore().head
        described = self.attempt(lambda: head(self.store, ""), pauses=())
        self.size = described["size"]
        self.version = str(described["e_tag"] or described["last_modified"])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "store"}

    @cached_property
    def store(self) -> Any:
        from obstore.store import from_url

        options = {"connect_timeout": "10s", "allow_http": True}
        retries = {"max_retries": 4}  # of its own, within a second or two
        provider = aws_credentials() if self.address.startswith("s3://") else {}
        return from_url(self.address, client_options=options, retry_config=retries, **provider)

    def read(self, start: int, length: int) -> memoryview:
        get_range = obstore().get_range
        return memoryview(
            self.attempt(lambda: get_range(self.store, "", start=start, length=length), PAUSES)
        )

    def attempt(self, request: Callable[[], Answer], pauses: Iterable[float]) -> Answer:
        for pause in (*pauses, None):
            try:
                return request()
            except FileNotFoundError:
                raise DataError(
                    f"there is no {self.address}: copy the .pack files themselves there "
                    "(experiments/pack.py writes them), or check the address"
                ) from None
            except Exception as error:  # obstore has many kinds
                if pause is None:
                    why = " ".join(str(error).partition("\n\nDebug")[0].split())[:200]
                    raise DataError(
                        f"{self.address} cannot be read ({why or type(error).__name__}): "
                        "check the address, the connection and the store's credentials"
                    ) from None
                time.sleep(pause)
        raise AssertionError("unreachable")


def obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise DataError(
            "packs in an object store need obstore: pip install 'segmodels[stream]'"
        ) from None
    PROCESSES.add(os.getpid())
    if len(PROCESSES) > 1:
        raise DataError(
            "packs in an object store cannot be read by a forked process: start it by spawn"
        )
    return obstore


def aws_credentials() -> dict[str, Any]:
    """Those of the AWS command line's files too, which obstore alone does not read."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return {"credential_provider": Boto3CredentialProvider()}
    except (ImportError, ValueError):  # no boto3, or it finds none: obstore looks for itself
        return {}


class RemotePack(Pack):
    """A pack in a store. Which images the cache keeps is the same for all processes."""

    def __init__(
        self,
        address: str,
        labels: LabelSet | None = None,
        cache: str | Path | None = None,
        gigabytes: float = 50.0,
    ) -> None:
        file = RemoteFile(address)
        super().__init__(address, labels, file)
        self.kept = 0  # the first images, which the cache keeps
        self.folder = Path(cache or "").expanduser()
        if cache:
            # Smaller packs come first: validation images are read most often.
            room = gigabytes * 1e9 - smaller_packs(file)
            self.kept = sum(place.end <= room for place in self.places)
            content = repr((self.description, self.names, file.size, file.version))
            self.folder /= hashlib.sha256(content.encode()).hexdigest()[:16]

    def record(self, index: int) -> memoryview:
        """The image's record out of the cache or the store."""
        record = self.cached(index)
        if record is None:
            record = self.read(index)
            if not self.intact(index, record):
                raise self.damaged(index)
            if index < self.kept:
                self.keep(index, record)
        return record

    def damaged(self, index: int) -> DataError:
        return DataError(
            f"{self.file} was changed or is damaged at {self.names[index]}: "
            "start the run again, or copy this pack anew"
        )

    # --- the cache

    def cache_file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.record"

    def cached(self, index: int) -> memoryview | None:
        """The image's record, if the cache has it as it was written; that is compared once."""
        if index >= self.kept:
            return None
        try:
            file = LocalFile(self.cache_file(index))
            record = file.read(0, file.size)
        except OSError:  # not there yet; if it cannot be, `keep` says so
            return None
        same_size = file.size == self.places[index].span[1]
        return record if same_size and self.intact_once(index, record) else None

    def keep(self, index: int, record: memoryview) -> None:
        """In one move, so that no other process sees a part of it."""
        partial = self.folder / f".{uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(record)
            partial.replace(self.cache_file(index))
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise DataError(
                f"the cache {self.folder} cannot be written ({error.strerror}): "
                "give data.cache another folder, or data.cache_gb what the disk has room for"
            ) from None


def smaller_packs(file: RemoteFile) -> int:
    """Bytes of the smaller packs of the same data set beside this one; each of its splits asks."""
    folder, _, name = file.address.rpartition("/")
    data, _, own = name.removesuffix(".pack").rpartition("-")
    total = 0
    for split in SPLITS:
        if split == own:
            continue
        try:
            other = RemoteFile(f"{folder}/{data}-{split}.pack")
        except DataError:  # it is not there
            continue
        if (other.size, split) < (file.size, own):
            total += other.size
    return total
