"""Find the images, videos or camera that arguments name. Imports no torch, and opens no file."""

import glob
import re
import sys
from pathlib import Path

from experiments.command_line.errors import UserError
from experiments.command_line.networks import nearest

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts")
HIDDEN = re.compile(r"(^|/)\.")
CAMERA = "camera:"
STREAMS = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
Target = tuple[Path | str, Path]  # a file or address, and its name below --out


def read_inputs(words: list[str]) -> tuple[str, list[Target]]:
    """The kind of the inputs, which is one in a call, and their names below --out, still with the
    input's suffix.

    The kind is "images" (or folders of them), "videos" or "camera".
    """
    live = [word for word in words if is_live(word)]
    if live and len(words) > 1:
        others = [*words]
        others.remove(live[0])
        raise UserError(
            f"{without_password(live[0])} is filmed alone; leave out "
            f"{', '.join(map(without_password, others))}, or start another predict.py for it"
        )
    if live:
        return "camera", [(live[0], camera_name(live[0]))]
    targets = [target for word in words for target in files_of(word)]
    videos = [file for file, _ in targets if file.suffix.lower() in VIDEOS]
    images = [file for file, _ in targets if file.suffix.lower() not in VIDEOS]
    if videos and images:
        raise UserError(
            f"{videos[0]} is a video and {images[0]} an image; "
            "predict videos and images in two calls"
        )
    return "videos" if videos else "images", targets


# --- cameras and streams


def is_live(word: str) -> bool:
    scheme, separator, _ = word.partition("://")
    return word.startswith(CAMERA) or bool(separator and scheme.lower() in STREAMS)


def without_password(word: str) -> str:
    """An address as it may be printed: without user, password and query."""
    return re.sub(r"\?.*", "?...", re.sub(r"://[^/]*@", "://", word))


def camera_name(word: str) -> Path:
    """The name of its video: camera0, or the address's host and path."""
    name = without_password(word).rpartition("://")[2].replace(CAMERA, "camera")
    return Path(re.sub(r"\W+", "_", name).strip("_") or "stream")


def camera_device(word: str) -> str:
    """The device of camera:0 or camera:/dev/video0; macOS knows numbers alone."""
    place = word.removeprefix(CAMERA)
    if place.isdigit():
        return place if sys.platform == "darwin" else f"/dev/video{place}"
    if not place.startswith("/dev/"):
        raise UserError(f"{word} is no camera; write camera:0 for the first, or camera:/dev/video0")
    return place


# --- files, folders and patterns


def files_of(word: str) -> list[Target]:
    """The files that an argument names, each with its name relative to that argument."""
    path = Path(word)
    if path.is_dir():
        return images_in(path)
    if path.is_file():
        return [(path, Path(path.name))]
    if glob.has_magic(word):
        return matches_of(word)
    raise UserError(
        f"there is no image or folder {path}{nearest(path)}; "
        "give images, folders of images, a pattern in quotes, or videos"
    )


def images_in(folder: Path) -> list[Target]:
    """All images below the folder, but not hidden ones, as in a pattern."""
    names = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    names = [name for name in names if not HIDDEN.search(str(name))]
    if images := [name for name in names if name.suffix.lower() in IMAGES]:
        return [(folder / name, name) for name in images]
    videos = [folder / name for name in names if name.suffix.lower() in VIDEOS]
    hint = f" (its videos are given by name: {videos[0]})" if videos else ""
    raise UserError(f"{folder} holds no image{hint}; images end in {', '.join(IMAGES)}")


def matches_of(pattern: str) -> list[Target]:
    """Names are relative to the pattern's fixed part: files of one name in two folders differ."""
    paths = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    known = [path for path in paths if path.is_file() and path.suffix.lower() in IMAGES + VIDEOS]
    if paths and all(path.is_dir() for path in paths):
        raise UserError(
            f"{pattern} matches only folders, such as {paths[0]}; "
            f"give {Path(pattern) / '*'} for the files in them"
        )
    if not known:
        raise UserError(
            f"no image or video matches {pattern}; they end in {', '.join(IMAGES + VIDEOS)}"
        )
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return [(file, file.relative_to(fixed)) for file in known]
