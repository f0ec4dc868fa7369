"""Mirror a run folder to W&B. Never prompts; without W&B the run goes on."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE = 20  # seconds that a run waits for W&B before it goes on without


class WandB:
    """A mirror of the run folder. Its axis is our step, "trainer/global_step": no call passes W&B's own."""

    def __init__(self, mode: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.mode = mode
        self.folder = folder
        self.config = config
        self.run = None

    def start(self) -> None:
        self.run = start_wandb(self.mode, self.folder, self.config)
        if self.run:
            self.run.define_metric("trainer/global_step")
            self.run.define_metric("*", step_metric="trainer/global_step")

    def log(self, values: Mapping[str, Any], step: int) -> None:
        if self.run:
            self.run.log({**values, "trainer/global_step": step})

    def log_overlays(self, rows: list, names: tuple[str, ...], step: int) -> None:
        import wandb

        classes = dict(enumerate(names)) | {255: "ignored"}

        def picture(
            name: str, image: np.ndarray, prediction: np.ndarray, label: np.ndarray
        ) -> wandb.Image:
            masks = {
                "prediction": {"mask_data": prediction, "class_labels": classes},
                "truth": {"mask_data": label, "class_labels": classes},
            }
            return wandb.Image(image, masks=masks, caption=f"{name}, step {step}")

        if self.run:
            self.log({"val/pictures": [picture(*row) for row in rows]}, step)

    def log_sheet(self, name: str, sheet: Any, step: int) -> None:
        import wandb

        if self.run:
            self.log({name: wandb.Image(sheet)}, step)

    def log_classes(self, names: tuple[str, ...], iou: list[float | None], step: int) -> None:
        import wandb

        if self.run:
            rows = [list(pair) for pair in zip(names, iou)]
            self.log({"val/IoU": wandb.Table(columns=["class", "IoU"], data=rows)}, step)

    def finish(self, exit_code: int) -> None:
        if self.run:
            self.run.finish(exit_code=exit_code)


def start_wandb(mode: str, folder: Path, config: Mapping[str, Any]) -> Any:
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
            then = (
                "logged offline; upload it later with `wandb sync`"
                if attempt == "online"
                else "not mirrored in W&B"
            )
            reason = ": ".join([type(problem).__name__, *str(problem).splitlines()[:1]])
            sentence = f"W&B is not to be had ({reason}): this run is {then}"
            print(sentence, file=sys.stderr, flush=True)
            wandb.teardown()  # else the run's id counts as taken
            shutil.rmtree(folder / "wandb", ignore_errors=True)
    return None


def wandb_mode() -> str:
    """The mode for "auto": as the environment says, else online where a key is at hand."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("online", "offline", "disabled"):
        return mode
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Whether a W&B key is at hand; looked up without a prompt."""
    import netrc

    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any(
        host in wandb.Settings().base_url or "wandb" in host for host in hosts if host != "default"
    )
