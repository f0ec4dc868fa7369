r"""Segment images, videos and cameras with a trained network.

a folder of images (searched through), with the last checkpoint of a run
  python experiments/predict.py runs/bisenet-... street_photos --out predictions
images by a pattern; the quotes leave it to this program, which keeps the
folders below the pattern's fixed part
  python experiments/predict.py runs/bisenet-... "drives/**/front/*.jpg" \
    --out predictions --kinds overlay,entropy
a photo, with the authors' checkpoint
  python experiments/predict.py released:stdc1_seg=stdc1.pth street.jpg \
    --out predictions
a video: its overlay is predictions/drive.mp4, as large and as fast, silent
  python experiments/predict.py runs/bisenet-... drive.mp4 --out predictions \
    --start 10 --end 20
a camera or a stream, until Ctrl-C or so many frames, in real time
  python experiments/predict.py runs/bisenet-... camera:0 --out predictions \
    --frames 500
  python experiments/predict.py runs/bisenet-... rtsp://192.168.1.20/street \
    --out predictions
"""

import glob
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import command_line as words
from experiments.command_line import Parser, Refused, checked_mode
from experiments.networks import NETWORK_HELP, nearest, source_of

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts")
CAMERA = "camera:"
STREAMS = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
KINDS = ("label", "ids", "color", "overlay", "probability", "entropy")
ONE_CLASS = "probability:"
FILMING = ("every", "start", "end", "frames", "legend")
EPILOG = """\
kinds, each a folder of PNGs below --out, under the image's name
  label              the class of each pixel: train ids, 8-bit gray
  ids                in the data set's own numbers: Cityscapes' labelIds
  color              in the data set's colors
  overlay            the colors over the image; a video's is one video
  probability        of the predicted class, 8-bit gray: 0 is 0, 255 is 1
  probability:CLASS  of that class, below probability-CLASS/
  entropy            8-bit gray: 0 is certain, 255 all classes alike

legend.png says which color is which class. Of a video, every kind but the
overlay is a folder of numbered frames. Videos are H.264 where OpenCV has an
encoder for it, else MPEG-4 Part 2, which players show and browsers do not.
"""


@dataclass(frozen=True)
class Inputs:
    """One kind of input, and what each is called below --out (without the ending)."""

    kind: str  # "images", "videos" or "camera"
    found: list[tuple[Path | str, Path]]


def parser() -> Parser:
    made = Parser(prog="predict.py", description=__doc__, epilog=EPILOG)
    made.add_argument("network", help=NETWORK_HELP)
    made.add_argument(
        "inputs", nargs="+", help="images, folders of them, quoted patterns, videos; or one camera:0, camera:/dev/video0, rtsp://..."
    )
    made.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder; files that are there already are not overwritten")
    made.add_argument("--kinds", metavar="KIND,...", help="default: label,color,overlay of images, overlay of a video or camera")
    made.add_argument("--inference", metavar="MODE", help="default: the recipe's (see evaluate.py --help)")
    made.add_argument("--batch", metavar="N", type=int, default=1, help="images of one size that go through together (default 1)")
    made.add_argument("--precision", choices=("32-true", "16-mixed", "bf16-mixed"), help="default: what the run was trained in")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda where there is one")
    made.add_argument("--strength", metavar="SHARE", type=float, default=0.55, help="of the colors in the overlay, 0 to 1 (default 0.55)")
    film = made.add_argument_group("videos and cameras")
    film.add_argument("--every", metavar="N", type=int, help="only every Nth frame of a video, which plays as long as before")
    film.add_argument("--start", metavar="SECONDS", type=float, help="where to begin in a video")
    film.add_argument("--end", metavar="SECONDS", type=float, help="where to end in a video, or how long to film")
    film.add_argument("--frames", metavar="N", type=int, help="predict so many frames at most")
    film.add_argument("--legend", action="store_true", help="the classes' names and colors beside the picture")
    return made


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    try:
        source, inputs = source_of(asked.network), sorted_out(asked.inputs)
        apart(inputs, asked.out)
        check(asked, inputs.kind)
        kinds = kinds_of(asked.kinds or ("label,color,overlay" if inputs.kind == "images" else "overlay"))
        outputs = named_outputs(inputs, asked.out, kinds)
        if inputs.kind == "images":
            from experiments.predicting import predict as run
        else:
            from experiments.filming import film as run

        return run(source, outputs, kinds, asked)
    except Refused as problem:
        return words.refuse(problem)
    except KeyboardInterrupt:
        print("stopped; what is written is whole", file=sys.stderr)
        return 130


def check(asked: Any, kind: str) -> None:
    """Values that no input makes right, before anything is computed."""
    if asked.inference:
        checked_mode(asked.inference)
    if not 0 <= asked.strength <= 1:
        raise Refused(f"--strength {asked.strength:g}: it is the colors' share of the overlay, from 0 to 1")
    for name in ("batch", "every", "frames"):
        if (value := getattr(asked, name)) is not None and value < 1:
            raise Refused(f"--{name} {value}: it is a whole number from 1 up")
    for name in ("start", "end"):
        if (value := getattr(asked, name)) is not None and not 0 <= value < math.inf:
            raise Refused(f"--{name} {value:g}: it is a number of seconds from 0 up")
    if asked.end is not None and asked.end <= (asked.start or 0):
        raise Refused(f"--end {asked.end:g} is not after --start {asked.start or 0:g}; give a later end")
    if kind == "images" and (given := next((name for name in FILMING if getattr(asked, name)), None)):
        raise Refused(f"--{given} is for videos and cameras; leave it out for images")
    if kind == "camera" and (given := next((name for name in ("every", "start") if getattr(asked, name)), None)):
        raise Refused(f"--{given} is for video files; a camera or stream begins now and gives its newest frame, so leave it out")
    if kind == "camera" and asked.batch > 1:
        raise Refused(f"--batch {asked.batch}: a camera's or stream's frames go through as they come; leave it out")


def kinds_of(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for kind in kinds:
        if not kind.startswith(ONE_CLASS):
            words.named("kind", kind, (*KINDS, f"{ONE_CLASS}CLASS"))
    return kinds


def folder_of(kind: str) -> str:
    """Below --out; a class may have any name."""
    return re.sub(r"[/\\:]", "-", kind)


# --- what the words mean


def sorted_out(inputs: list[str]) -> Inputs:
    """Images and folders of them, or videos, or one camera: a call takes one kind."""
    if live := [word for word in inputs if is_live(word)]:
        if others := [word for word in inputs if word != live[0]] or live[1:]:
            raise Refused(
                f"{public(live[0])} is filmed alone; leave out {', '.join(map(public, others))}, or start another predict.py for it"
            )
        return Inputs("camera", [(live[0], live_name(live[0]))])
    found = [each for word in inputs for each in files_of(word)]
    videos = [file for file, _ in found if file.suffix.lower() in VIDEOS]
    if not videos:
        return Inputs("images", found)
    if image := next((file for file, _ in found if file not in videos), None):
        raise Refused(f"{videos[0]} is a video and {image} an image; predict videos and images in two calls")
    return Inputs("videos", found)


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
        raise Refused(f"{CAMERA}{place} is no camera; write camera:0 for the first, or camera:/dev/video0")
    return int(number)


def files_of(word: str) -> list[tuple[Path, Path]]:
    """(file, its name relative to what was given), folders and patterns searched through."""
    path = Path(word)
    if path.is_dir():
        return inside(path)
    if path.is_file():
        return [(path, Path(path.name))]
    if glob.has_magic(word):
        return matching(word)
    raise Refused(f"there is no image or folder {path}{nearest(path)}; give images, folders of images, a pattern in quotes, or videos")


def inside(folder: Path) -> list[tuple[Path, Path]]:
    """What is hidden, or in a hidden folder, stays so, as in a pattern."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and not hidden(each.relative_to(folder)))
    if images := [(each, each.relative_to(folder)) for each in files if each.suffix.lower() in IMAGES]:
        return images
    videos = [each for each in files if each.suffix.lower() in VIDEOS]
    hint = f" (its videos are given by name: {videos[0]})" if videos else ""
    raise Refused(f"{folder} holds no image{hint}; images end in {', '.join(IMAGES)}")


def hidden(path: Path) -> bool:
    return any(part[0] == "." for part in path.parts)


def matching(pattern: str) -> list[tuple[Path, Path]]:
    """Names begin where the pattern's fixed part ends, so that files of one name in two folders stay apart."""
    parts = Path(pattern).parts
    fixed = Path(*parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])
    paths = [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]
    files = [each for each in paths if each.is_file()]
    if paths and not files:
        raise Refused(f"{pattern} matches only folders, such as {paths[0]}; give {Path(pattern) / '*'} for the files in them")
    known = [each for each in files if each.suffix.lower() in IMAGES + VIDEOS]
    if not known:
        why = f"of the {len(files)} files that match {pattern} none is an image or video" if files else f"no file matches {pattern}"
        raise Refused(f"{why}; images and videos end in {', '.join(IMAGES + VIDEOS)}")
    return [(each, each.relative_to(fixed)) for each in known]


# --- what they become


def apart(inputs: Inputs, out: Path) -> None:
    """Pictures of an earlier call are no images to predict, where --out lies in the folder that is searched."""
    if inputs.kind != "images":
        return
    there, single = out.resolve(), folder_of(ONE_CLASS)
    for each, _ in inputs.found:
        place = each.resolve()
        first = place.parts[len(there.parts)] if there in place.parents else ""
        if first in (*KINDS, "legend.png") or first.startswith(single):
            raise Refused(f"{each} lies where --out {out} holds predictions; give images and an --out apart from each other")


def named_outputs(inputs: Inputs, out: Path, kinds: tuple[str, ...]) -> list[tuple[Path | str, Path]]:
    """(input, output name); two inputs of one name, or an output that exists, are refused before anything is computed."""
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is a file; --out takes a folder, which need not exist yet")
    ending = ".png" if inputs.kind == "images" else ".mp4"
    outputs = [(each, name.parent / f"{name.name if inputs.kind == 'camera' else name.stem}{ending}") for each, name in inputs.found]
    seen: dict[Path, Path | str] = {}
    for each, name in outputs:
        if name in seen:
            raise Refused(f"{seen[name]} and {each} would both become {name}; rename one, or predict them into different folders")
        seen[name] = each
        if there := next((place for kind in kinds if (place := place_of(out, kind, name)).exists()), None):
            raise Refused(f"{there} exists and is not overwritten; give another --out")
    return outputs


def place_of(out: Path, kind: str, name: Path) -> Path:
    """The picture's file; of a video, the overlay's file or the folder of the kind's frames."""
    if name.suffix == ".png":
        return out / folder_of(kind) / name
    return out / name if kind == "overlay" else out / folder_of(kind) / name.with_suffix("")


if __name__ == "__main__":
    sys.exit(main())
