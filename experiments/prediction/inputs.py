"""What the words behind a network mean: images and folders of them, videos, or one camera. Imports no torch, and opens no file."""

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line.errors import UserError
from experiments.command_line.networks import nearest

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts")
CAMERA = "camera:"
STREAMS = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")


@dataclass(frozen=True)
class Inputs:
    """One kind of input, and what each is called below --out (without the ending)."""

    kind: str  # "images", "videos" or "camera"
    found: list[tuple[Path | str, Path]]


def sorted_out(words: list[str]) -> Inputs:
    """Images and folders of them, or videos, or one camera: a call takes one kind."""
    if live := [word for word in words if is_live(word)]:
        if others := [word for word in words if word != live[0]] or live[1:]:
            raise UserError(
                f"{public(live[0])} is filmed alone; leave out {', '.join(map(public, others))}, or start another predict.py for it"
            )
        return Inputs("camera", [(live[0], live_name(live[0]))])
    found = [each for word in words for each in files_of(word)]
    videos = [file for file, _ in found if file.suffix.lower() in VIDEOS]
    if not videos:
        return Inputs("images", found)
    if image := next((file for file, _ in found if file not in videos), None):
        raise UserError(
            f"{videos[0]} is a video and {image} an image; predict videos and images in two calls"
        )
    return Inputs("videos", found)


# --- cameras and streams


def is_live(word: str) -> bool:
    scheme, divided, _ = word.partition("://")
    return word.startswith(CAMERA) or bool(divided and scheme.lower() in STREAMS)


def public(word: str) -> str:
    """An address without the name and password that it may hold."""
    return re.sub(r"\?.*", "?...", re.sub(r"://[^/]*@", "://", word))


def live_name(word: str) -> Path:
    """What its video is called: camera0, or the address's host and path."""
    if word.startswith(CAMERA):
        place = word.removeprefix(CAMERA)
        camera_number(place)
        return Path(f"camera{place}" if place.isdigit() else Path(place).name)
    place = public(word).partition("://")[2]
    return Path(re.sub(r"\W+", "_", place).strip("_") or "stream")


def camera_number(place: str) -> int:
    """OpenCV counts cameras; a name below /dev leads to such a number."""
    number = place if place.isdigit() else Path(place).resolve().name.removeprefix("video")
    if not number.isdigit():
        raise UserError(
            f"{CAMERA}{place} is no camera; write camera:0 for the first, or camera:/dev/video0"
        )
    return int(number)


# --- files, folders and patterns


def files_of(word: str) -> list[tuple[Path, Path]]:
    """(file, its name relative to what was given), folders and patterns searched through."""
    path = Path(word)
    if path.is_dir():
        return inside(path)
    if path.is_file():
        return [(path, Path(path.name))]
    if glob.has_magic(word):
        return matching(word)
    raise UserError(
        f"there is no image or folder {path}{nearest(path)}; give images, folders of images, a pattern in quotes, or videos"
    )


def inside(folder: Path) -> list[tuple[Path, Path]]:
    """What is hidden, or in a hidden folder, stays so, as in a pattern."""
    files = sorted(
        each
        for each in folder.rglob("*")
        if each.is_file() and not hidden(each.relative_to(folder))
    )
    if images := [
        (each, each.relative_to(folder)) for each in files if each.suffix.lower() in IMAGES
    ]:
        return images
    videos = [each for each in files if each.suffix.lower() in VIDEOS]
    hint = f" (its videos are given by name: {videos[0]})" if videos else ""
    raise UserError(f"{folder} holds no image{hint}; images end in {', '.join(IMAGES)}")


def hidden(path: Path) -> bool:
    return any(part[0] == "." for part in path.parts)


def matching(pattern: str) -> list[tuple[Path, Path]]:
    """Names begin where the pattern's fixed part ends, so that files of one name in two folders stay apart."""
    parts = Path(pattern).parts
    fixed = Path(*parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])
    paths = [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]
    files = [each for each in paths if each.is_file()]
    if paths and not files:
        raise UserError(
            f"{pattern} matches only folders, such as {paths[0]}; give {Path(pattern) / '*'} for the files in them"
        )
    known = [each for each in files if each.suffix.lower() in IMAGES + VIDEOS]
    if not known:
        why = (
            f"of the {len(files)} files that match {pattern} none is an image or video"
            if files
            else f"no file matches {pattern}"
        )
        raise UserError(f"{why}; images and videos end in {', '.join(IMAGES + VIDEOS)}")
    return [(each, each.relative_to(fixed)) for each in known]
