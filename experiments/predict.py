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
with another option of the network, which leaves its weights as they are
  python experiments/predict.py runs/emanet-... street.jpg --out predictions \
    model.eval_iterations=5
a video: its overlay is predictions/drive.mp4, as large and as fast, silent
  python experiments/predict.py runs/bisenet-... drive.mp4 --out predictions \
    --start 10 --end 20
a camera or a stream, until Ctrl-C or so many frames, in real time
  python experiments/predict.py runs/bisenet-... camera:0 --out predictions \
    --frames 500
  python experiments/predict.py runs/bisenet-... rtsp://192.168.1.20/street \
    --out predictions
"""

import math
import sys
from pathlib import Path
from typing import Any

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.networks import NETWORK_HELP, parse_network
from experiments.command_line.parser import Parser
from experiments.command_line.values import checked_mode
from experiments.prediction.inputs import sorted_out
from experiments.prediction.outputs import apart, kinds_of, named_outputs
from experiments.records.trained_networks import check_words

FILMING = ("every", "start", "end", "frames", "legend", "format")
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
overlay is a folder of numbered frames. A .mp4 is H.264, which browsers play,
with PyAV (pip install -e ".[video]") or where OpenCV has an encoder for it;
else it is MPEG-4 Part 2, which players show and browsers do not. A .webm is
VP8: browsers play it, it needs nothing more, and takes far longer to write.

Images have 8 or 16 bits; transparency is left out. The headers and ends of all
are read before the first prediction, and what cannot be read is refused. One
that proves damaged later is passed over and named at the end: exit code 2.
"""


def parser() -> Parser:
    made = Parser(prog="predict.py", description=__doc__, epilog=EPILOG)
    made.add_argument("network", help=NETWORK_HELP)
    made.add_argument(
        "inputs",
        nargs="+",
        help="images, folders of them, quoted patterns, videos; or one camera:0, camera:/dev/video0, rtsp://...; and model.name=value",
    )
    made.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="a folder; files that are there already are not overwritten",
    )
    made.add_argument(
        "--kinds",
        metavar="KIND,...",
        help="default: label,color,overlay of images, overlay of a video or camera",
    )
    made.add_argument(
        "--inference", metavar="MODE", help="default: the recipe's (see evaluate.py --help)"
    )
    made.add_argument(
        "--batch",
        metavar="N",
        type=int,
        default=1,
        help="images of one size that go through together (default 1)",
    )
    made.add_argument(
        "--precision",
        choices=("32-true", "16-mixed", "bf16-mixed"),
        help="default: what the run was trained in",
    )
    made.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: cuda where there is one",
    )
    made.add_argument(
        "--strength",
        metavar="SHARE",
        type=float,
        default=0.55,
        help="of the colors in the overlay, 0 to 1 (default 0.55)",
    )
    made.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="predict the other images, and name these at the end",
    )
    made.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out images that are predicted already: to go on after Ctrl-C",
    )
    film = made.add_argument_group("videos and cameras")
    film.add_argument(
        "--every",
        metavar="N",
        type=int,
        help="only every Nth frame of a video, which plays as long as before",
    )
    film.add_argument("--start", metavar="SECONDS", type=float, help="where to begin in a video")
    film.add_argument(
        "--end", metavar="SECONDS", type=float, help="where to end in a video, or how long to film"
    )
    film.add_argument("--frames", metavar="N", type=int, help="predict so many frames at most")
    film.add_argument(
        "--format", choices=("mp4", "webm"), help="of the video (default mp4; see below)"
    )
    film.add_argument(
        "--legend", action="store_true", help="the classes' names and colors beside the picture"
    )
    return made


@command(stopped="stopped; what is written is whole")
def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_intermixed_args(arguments)
    source = parse_network(asked.network)
    named, asked.model = apart_from_options(asked.inputs)
    check_words(source, None, (), asked.model)
    inputs = sorted_out(named)
    apart(inputs, asked.out)
    check(asked, inputs.kind)
    kinds = kinds_of(
        asked.kinds or ("label,color,overlay" if inputs.kind == "images" else "overlay")
    )
    ending = ".png" if inputs.kind == "images" else f".{asked.format or 'mp4'}"
    outputs = named_outputs(inputs, asked.out, kinds, ending, asked.skip_existing)
    if done := len(inputs.found) - len(outputs):
        print(f"{done} of {len(inputs.found)} images are predicted already", flush=True)
        if not outputs:
            return 0
    if inputs.kind == "images":
        from experiments.prediction.images import predict as run
    else:
        from experiments.prediction.videos import film as run

    return run(source, outputs, kinds, asked)


def apart_from_options(words: list[str]) -> tuple[list[str], list[str]]:
    """What is to be predicted, and the options of the network."""
    options = [word for word in words if word.startswith("model.") and "=" in word]
    inputs = [word for word in words if word not in options]
    if not inputs:
        raise UserError(f"{options[0]} is an option of the network; name an image or a video too")
    return inputs, options


def check(asked: Any, kind: str) -> None:
    """Values that no input makes right, before anything is computed."""
    if asked.inference:
        checked_mode(asked.inference)
    if not 0 <= asked.strength <= 1:
        raise UserError(
            f"--strength {asked.strength:g}: it is the colors' share of the overlay, from 0 to 1"
        )
    for name in ("batch", "every", "frames"):
        if (value := getattr(asked, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: it is a whole number from 1 up")
    for name in ("start", "end"):
        if (value := getattr(asked, name)) is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name} {value:g}: it is a number of seconds from 0 up")
    if asked.end is not None and asked.end <= (asked.start or 0):
        raise UserError(
            f"--end {asked.end:g} is not after --start {asked.start or 0:g}; give a later end"
        )
    if kind == "images" and (
        given := next((name for name in FILMING if getattr(asked, name)), None)
    ):
        raise UserError(f"--{given} is for videos and cameras; leave it out for images")
    if kind != "images" and asked.skip_existing:
        raise UserError("--skip-existing is for images; a video is written whole or not at all")
    if kind != "images" and asked.skip_unreadable:
        raise UserError(
            "--skip-unreadable is for images; a video's damaged frames are left out and told anyway"
        )
    if kind == "camera" and (
        given := next((name for name in ("every", "start") if getattr(asked, name)), None)
    ):
        raise UserError(
            f"--{given} is for video files; a camera or stream begins now and gives its newest frame, so leave it out"
        )
    if kind == "camera" and asked.batch > 1:
        raise UserError(
            f"--batch {asked.batch}: a camera's or stream's frames go through as they come; leave it out"
        )


if __name__ == "__main__":
    sys.exit(run_main(main))
