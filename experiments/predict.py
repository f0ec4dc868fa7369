r"""Segment images, videos and cameras with a trained network.

a folder of images (searched through), with the best checkpoint of a run
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

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from experiments.command_line.errors import UserError, command, run_main
from experiments.command_line.networks import NETWORK_HELP, add_checkpoint, parse_network
from experiments.command_line.parser import (
    Parser,
    add_computation,
    check_computation,
    positive,
    seconds,
    share,
)
from experiments.command_line.resolved_values import checked_mode
from experiments.prediction.inputs import read_inputs
from experiments.prediction.outputs import check_no_predictions, name_outputs, parse_kinds
from experiments.records.trained_networks import check_words

VIDEO_OPTIONS = ("every", "start", "end", "frames", "legend", "format")
NOT_FOR_VIDEOS = {
    "skip_existing": "is for images; a video is written whole or not at all",
    "skip_unreadable": "is for images; a video's damaged frames are left out and told anyway",
}
NOT_FOR_CAMERAS = (
    "is for video files; a camera or stream begins now and gives its newest frame, so leave it out"
)
# kind of input -> options that it does not take, and why
REFUSED = {
    "images": dict.fromkeys(VIDEO_OPTIONS, "is for videos and cameras; leave it out for images"),
    "videos": NOT_FOR_VIDEOS,
    "camera": NOT_FOR_VIDEOS | dict.fromkeys(("every", "start"), NOT_FOR_CAMERAS),
}
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
overlay is a folder of numbered frames. A .mp4 is H.264 and a .webm is VP8:
browsers play both. Videos and cameras need PyAV, the extra "video":
pip install "segmodels[video]".

Images have 8 or 16 bits; transparency is left out. The headers and ends of all
are read before the first prediction, and what cannot be read is refused. One
that proves damaged later is passed over and named at the end: exit code 2.
"""


def make_parser() -> Parser:
    parser = Parser(prog="predict.py", description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("network", help=NETWORK_HELP)
    add(
        "inputs",
        nargs="+",
        help="images, folders of them, quoted patterns, videos; "
        "or one camera:0, camera:/dev/video0, rtsp://...; and model.name=value",
    )
    add_checkpoint(parser)
    add(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="a folder; files that are there already are not overwritten",
    )
    add(
        "--kinds",
        metavar="KIND,...",
        help="default: label,color,overlay of images, overlay of a video or camera",
    )
    add(
        "--inference",
        metavar="MODE",
        type=checked_mode,
        help="default: the recipe's (see evaluate.py --help)",
    )
    add(
        "--batch",
        metavar="N",
        type=positive,
        default=1,
        help="images of one size that go through together (default 1)",
    )
    add_computation(add)
    add(
        "--strength",
        metavar="SHARE",
        type=share,
        default=0.55,
        help="of the colors in the overlay, 0 to 1 (default 0.55)",
    )
    add(
        "--skip-unreadable",
        action="store_true",
        help="predict the other images, and name these at the end",
    )
    add(
        "--skip-existing",
        action="store_true",
        help="leave out images that are predicted already: to go on after Ctrl-C",
    )
    add = parser.add_argument_group("videos and cameras").add_argument
    add(
        "--every",
        metavar="N",
        type=positive,
        help="only every Nth frame of a video, which plays as long as before",
    )
    add("--start", metavar="SECONDS", type=seconds, help="where to begin in a video")
    add(
        "--end",
        metavar="SECONDS",
        type=seconds,
        help="where to end in a video, or how long to film",
    )
    add("--frames", metavar="N", type=positive, help="predict so many frames at most")
    add("--format", choices=("mp4", "webm"), help="of the video (default mp4; see below)")
    add("--legend", action="store_true", help="the classes' names and colors beside the picture")
    return parser


@command(stopped="stopped; what is written is whole")
def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(arguments)
    source = parse_network(args.network, args.checkpoint)
    args.model = [word for word in args.inputs if word.startswith("model.") and "=" in word]
    words = [word for word in args.inputs if word not in args.model]
    if not words:
        raise UserError(
            f"{args.model[0]} is an option of the network; name an image or a video too"
        )
    check_words(source, None, (), args.model)
    kind, inputs = read_inputs(words)
    if kind == "images":
        check_no_predictions(inputs, args.out)
    check(args, kind)
    if kind != "images":
        args.kinds = parse_kinds(args.kinds or "overlay")
        targets = name_outputs(kind, inputs, args, f".{args.format or 'mp4'}")
        from experiments.prediction.videos import predict_videos

        return predict_videos(source, targets, args)
    args.kinds = parse_kinds(args.kinds or "label,color,overlay")
    targets = name_outputs(kind, inputs, args, ".png")
    if done := len(inputs) - len(targets):
        print(f"{done} of {len(inputs)} images are predicted already", flush=True)
    if not targets:
        return 0
    from experiments.prediction.images import predict_images

    return predict_images(source, targets, args)


def check(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that do not go together, or not with this kind of input."""
    check_computation(args)
    start = args.start or 0
    if args.end is not None and args.end <= start:
        raise UserError(f"--end {args.end:g} is not after --start {start:g}; give a later end")
    for name, why in REFUSED[kind].items():
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} {why}")
    if kind == "camera" and args.batch > 1:
        raise UserError(
            f"--batch {args.batch}: a camera's or stream's frames go through as they come; "
            "leave it out"
        )
    if kind != "images" and find_spec("av") is None:
        raise UserError('videos and cameras need PyAV: pip install "segmodels[video]"')


if __name__ == "__main__":
    sys.exit(run_main(main))
