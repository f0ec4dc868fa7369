"""Mirror a run folder to W&B. Never prompts; without W&B the run goes on."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import wandb
    from PIL import Image

PATIENCE = 20  # seconds that a run waits for W&B before it goes on without
STEP = "trainer/global_step"  # our axis: no call passes W&B's own
Row = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name, image, prediction, label


class WandB:
    """A mirror of the run folder, once it was started. Until then, and where W&B is disabled or
    cannot be reached, `run` is None and nothing is logged."""

    run: "wandb.Run | None" = None

    def __init__(self, mode: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.mode = mode
        self.folder = folder
        self.config = config

    def start(self) -> None:
        if self.mode == "disabled":
            return
        self.run = start_wandb(self.mode, self.folder, self.config)
        if self.run:
            self.run.define_metric(STEP)
            self.run.define_metric("*", step_metric=STEP)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        if self.run:
            self.run.log({**values, STEP: step})

    def log_overlays(self, rows: list[Row], names: tuple[str, ...], step: int) -> None:
        if not self.run:
            return
        import wandb

        classes = dict(enumerate(names)) | {255: "ignored"}
        pictures = []
        for name, image, prediction, label in rows:
            masks = {
                title: {"mask_data": mask, "class_labels": classes}
                for title, mask in (("prediction", prediction), ("truth", label))
            }
            pictures.append(wandb.Image(image, masks=masks, caption=f"{name}, step {step}"))
        self.log({"val/pictures": pictures}, step)

    def log_sheet(self, name: str, sheet: "Image.Image", step: int) -> None:
        if self.run:
            import wandb

            self.log({name: wandb.Image(sheet)}, step)

    def log_classes(self, names: tuple[str, ...], iou: list[float | None], step: int) -> None:
        if self.run:
            import wandb

            rows = [list(pair) for pair in zip(names, iou)]
            self.log({"val/IoU": wandb.Table(columns=["class", "IoU"], data=rows)}, step)

    def finish(self, exit_code: int) -> None:
        if self.run:
            self.run.finish(exit_code=exit_code)


def start_wandb(mode: str, folder: Path, config: Mapping[str, Any]) -> "wandb.Run | None":
    """The run in W&B, or None with a sentence. The mode is explicit, so that W&B never prompts."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    settings = wandb.Settings(
        console="off", silent=True, init_timeout=PATIENCE, finish_timeout=6 * PATIENCE
    )
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            return wandb.init(
                mode=attempt,
                project="segmodels",
                name=folder.name,
                group=config["experiment"],
                id=config["id"],
                resume="allow",
                dir=str(folder),
                config=dict(config),
                settings=settings,
            )
        except Exception as problem:
            then = "not mirrored in W&B"
            if attempt == "online":
                then = "logged offline; upload it later with `wandb sync`"
            reason = ": ".join([type(problem).__name__, *str(problem).splitlines()[:1]])
            sentence = f"W&B is not to be had ({reason}): this run is {then}"
            print(sentence, file=sys.stderr, flush=True)
            wandb.teardown()  # else the run's id counts as taken
            shutil.rmtree(folder / "wandb", ignore_errors=True)
    return None


def wandb_mode() -> str:
    """The mode for "auto": as the environment says, else online where a key is at hand."""
    import wandb
    from requests.utils import get_netrc_auth

    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("online", "offline", "disabled"):
        return mode
    key = os.environ.get("WANDB_API_KEY") or get_netrc_auth(wandb.Settings().base_url)
    return "online" if key else "offline"
