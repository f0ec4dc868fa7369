"""Files inside zips that nobody unpacks, by paths that go through the zip:
`.../gtFine_trainvaltest.zip/gtFine/train/aachen/...png`."""

import os
import struct
import zipfile
import zlib
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from datamodules.errors import DataError
from datamodules.reading.decoding import from_disk

LOCAL = struct.Struct(
    "<4s22xHH"
)  # a member's own header: signature, bytes of its name and of its extra field
AGAIN = "download it again from where the data set comes from"


class Member(NamedTuple):
    header: int  # where it begins in the zip
    packed: int  # bytes there
    plain: int
    deflated: bool


class Zip:
    """One archive. Reading moves no shared position, so processes that were forked may share the
    open file.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.members = file, members(file)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "descriptor"}

    @cached_property
    def descriptor(self) -> int:
        return os.open(self.file, os.O_RDONLY)

    def __del__(self) -> None:
        if "descriptor" in vars(self):
            os.close(self.descriptor)

    def read(self, name: str, count: int = -1) -> bytes:
        """The first `count` bytes, or all."""
        member, damaged = (
            self.members[name],
            DataError(f"{self.file} is damaged at {name}: {AGAIN}"),
        )
        fixed = os.pread(self.descriptor, LOCAL.size, member.header)
        signature, named, extra = LOCAL.unpack(fixed) if len(fixed) == LOCAL.size else (b"", 0, 0)
        if (
            signature != b"PK\3\4"
            or member.header + member.packed > os.fstat(self.descriptor).st_size
        ):
            raise damaged
        packed = os.pread(
            self.descriptor, member.packed, member.header + LOCAL.size + named + extra
        )
        if len(packed) < member.packed:
            raise damaged
        if not member.deflated:
            return packed if count < 0 else packed[:count]
        try:
            plain = zlib.decompressobj(-15).decompress(
                packed, member.plain + 1 if count < 0 else count
            )
        except zlib.error:
            raise damaged from None
        if count < 0 and len(plain) != member.plain:
            raise damaged
        return plain


def members(file: Path) -> dict[str, Member]:
    """From the archive's own list, which stands at its end."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except OSError as problem:
        raise DataError(
            f"{file} cannot be read ({problem.strerror or problem}): make it readable, or {AGAIN}"
        ) from None
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
    ) as problem:  # the last two where its list is damaged
        raise DataError(
            f"{file} is no zip, or only the beginning of one ({problem}): {AGAIN}"
        ) from None
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise DataError(
                f"{file} names a file outside itself ({info.filename}), so it is not the "
                f"official archive: {AGAIN}"
            )
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise DataError(
                f"{file} holds {info.filename} encrypted or compressed in an unusual way: "
                f"unpack it, or {AGAIN}"
            )
    return {
        info.filename: Member(
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.compress_type == zipfile.ZIP_DEFLATED,
        )
        for info in infos
    }


class Zips:
    """Reads files on the disk, and those whose paths go through a zip that was asked for its
    members.
    """

    def __init__(self) -> None:
        self.zips: dict[str, Zip] = {}

    def matching(self, file: Path, pattern: str) -> list[str]:
        """The paths of members whose names match."""
        if str(file) not in self.zips:
            self.zips[str(file)] = Zip(file)
        return sorted(
            f"{file}/{name}" for name in self.zips[str(file)].members if fnmatchcase(name, pattern)
        )

    def __call__(self, path: str, count: int = -1) -> bytes:
        zipped = next((each for each in self.zips if path.startswith(each + "/")), None)
        return (
            self.zips[zipped].read(path[len(zipped) + 1 :], count)
            if zipped
            else from_disk(path, count)
        )
