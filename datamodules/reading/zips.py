"""Read files inside zips that nobody unpacks, by paths that go through the zip:
`.../gtFine_trainvaltest.zip/gtFine/train/aachen/...png`."""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from datamodules.errors import DataError
from datamodules.reading.decoding import from_disk

AGAIN = "download it again from where the data set comes from"
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, MemoryError)


class Zips:
    """Reads files on the disk, and the members of those zips that were searched with `matching`.

    Threads may share it; a copy in another process opens the zips for itself.
    """

    def __init__(self, files: Sequence[str] = ()) -> None:
        self.archives = {file: open_zip(file) for file in files}

    def __reduce__(self) -> tuple[type["Zips"], tuple[list[str]]]:
        return Zips, (list(self.archives),)

    def matching(self, file: Path, pattern: str) -> list[str]:
        """The paths of members whose names match."""
        if str(file) not in self.archives:
            self.archives[str(file)] = open_zip(str(file))
        names = self.archives[str(file)].namelist()
        return sorted(f"{file}/{name}" for name in names if fnmatchcase(name, pattern))

    def __call__(self, path: str, count: int = -1) -> bytes:
        """The first `count` bytes, or all."""
        for file, archive in self.archives.items():
            if path.startswith(f"{file}/"):
                return read_member(archive, path.removeprefix(f"{file}/"), count)
        return from_disk(path, count)


def open_zip(file: str) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except OSError as problem:
        raise DataError(
            f"{file} cannot be read ({problem.strerror or problem}): make it readable, or {AGAIN}"
        ) from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as problem:
        raise DataError(
            f"{file} is no zip, or only the beginning of one ({problem}): {AGAIN}"
        ) from None
    for name in archive.namelist():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise DataError(
                f"{file} names a file outside itself ({name}), so it is not the "
                f"official archive: {AGAIN}"
            )
    return archive


def read_member(archive: zipfile.ZipFile, name: str, count: int) -> bytes:
    try:
        info = archive.getinfo(name)
        with archive.open(info) as member:
            # With the size that the zip tells: a damaged one may not take any memory it likes.
            return member.read(info.file_size if count < 0 else count)
    except RuntimeError as problem:  # a password, or a method that zipfile does not know
        raise DataError(
            f"{archive.filename} holds {name} encrypted or compressed in an unusual way "
            f"({problem}): unpack it, or {AGAIN}"
        ) from None
    except DAMAGE:
        raise DataError(f"{archive.filename} is damaged at {name}: {AGAIN}") from None
