"""Mirror a run folder to W&B. Never prompts; without W&B the run goes on."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.command_line.parser import by
from experiments.command_line.resolved_values import Resolved
from experiments.records.results import BestWeights, Result
from experiments.reports.published_figures import comparable, measured_as
from segmodels.paper import experiment, macs, meta_network

if TYPE_CHECKING:
    import wandb
    from PIL import Image

PATIENCE = 20  # seconds that a run waits for W&B before it goes on without
STEP = "trainer/global_step"  # our axis: no call passes W&B's own
ENVIRONMENT = {  # what the environment says of a run goes before what we say
    "project": "WANDB_PROJECT",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
}
SUMMARY = (  # fields of result.json
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "frequency_weighted_iou",
    "category_miou",
    "iou",
    "accuracy",
    "categories",
    "images",
    "protocol",
    "parameters",
    "inference_parameters",
    "seconds",
    "cpu_seconds",
    "finished",
)
Row = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name, image, prediction, label


class WandB:
    """A mirror of the run folder, once it was started. Until then, and where W&B is disabled or
    cannot be reached, `run` is None and nothing is logged."""

    run: "wandb.Run | None" = None

    def __init__(
        self, mode: str, folder: Path, config: Mapping[str, Any], resolved: Resolved
    ) -> None:
        self.mode = mode
        self.folder = folder
        self.config = config
        self.resolved = resolved

    def start(self) -> None:
        if self.mode == "disabled":
            return
        about = description(self.resolved, self.folder.name)
        self.run = start_wandb(self.mode, self.folder, self.config, about)
        if self.run:
            self.run.define_metric(STEP)
            self.run.define_metric("*", step_metric=STEP)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        if self.run:
            self.run.log({**values, STEP: step})

    def log_overlays(self, rows: list[Row], names: tuple[str, ...], step: int) -> None:
        """Images under masks that can be switched on; W&B gives masks colors of its own."""
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
        """A sheet of pictures, which is in the colors of the data set."""
        if self.run:
            import wandb

            self.log({name: wandb.Image(sheet)}, step)

    def conclude(self, result: Result, confusion: Sequence[Sequence[int]]) -> None:
        """Add what is known in the end: the summary, the confusion matrix and, if the run was told
        to, the best checkpoint."""
        if not self.run:
            return
        self.run.summary.update(summary(result, self.resolved))
        plot = confusion_plot(list(result.iou), confusion)
        self.log({"val/confusion": plot}, result.iterations)
        if self.resolved.trainer.get("wandb_artifact") and result.best:
            about = {name: getattr(result, name) for name in ("experiment", "data", "seed")}
            self.upload(self.folder / result.best.checkpoint, about | score_of(result.best))

    def upload(self, file: Path, metadata: Mapping[str, Any]) -> None:
        """Log a checkpoint as an artifact, which is read from where it lies."""
        import wandb

        artifact = wandb.Artifact(f"{self.run.id}-{file.stem}", "model", metadata=dict(metadata))
        artifact.add_file(str(file), skip_cache=True, policy="immutable")
        self.run.log_artifact(artifact, aliases=[file.stem])

    def finish(self, exit_code: int) -> None:
        """Close the run in W&B and, after a good end, say where it is seen or how it gets there."""
        if not self.run:
            return
        self.run.finish(exit_code=exit_code)
        if exit_code == 0:
            upload = f"wandb sync {shlex.quote(str(self.folder / 'wandb'))}"
            print(f"{'W&B':12} {upload if self.run.offline else self.run.url}", flush=True)


# --- what W&B is told of a run


def description(resolved: Resolved, name: str) -> dict[str, Any]:
    """How the run is found among others, as arguments of wandb.init."""
    job = "smoke" if "--smoke" in resolved.origins.values() else "train"
    tags = [resolved.paper, resolved.data_name]
    if resolved.semi_name != "none":
        tags.append(resolved.semi_name)
    if job == "smoke":
        tags.append(job)
    tags += filter(None, os.environ.get("WANDB_TAGS", "").split(","))
    ours = {"project": "segmodels", "name": name, "group": resolved.title, "job_type": job}
    theirs = {
        argument: os.environ[variable]
        for argument, variable in ENVIRONMENT.items()
        if os.environ.get(variable)
    }
    return ours | theirs | {"tags": tags}


def summary(result: Result, resolved: Resolved) -> dict[str, Any]:
    """What the table of runs shows beside the last values of the curves; scores from 0 to 1."""
    classes = len(result.iou)
    size = tuple(resolved.entry["macs_size"])
    network = meta_network(experiment(resolved.experiment).but(model=resolved.model), classes)
    values = {name: getattr(result, name) for name in SUMMARY}
    values |= {"macs": macs(network, size), "macs_size": by(size)}
    values["last"] = {"miou": result.miou, "step": result.iterations}
    if result.best:
        values["best"] = score_of(result.best)
    for figure in comparable(result)[:1]:
        protocol = measured_as(figure)
        values["published"] = {"miou": figure.miou / 100, "protocol": protocol}
        values["published"]["source"] = figure.source
    return {name: value for name, value in values.items() if value is not None}


def score_of(best: BestWeights) -> dict[str, Any]:
    return {"miou": best.miou, "step": best.step}


def confusion_plot(
    names: Sequence[str], confusion: Sequence[Sequence[int]]
) -> "wandb.plot.CustomChart":
    """The pixels of each true class by what they were taken for, as W&B's own plot of a matrix."""
    import wandb

    cells = []
    for name, counts in zip(names, confusion):
        cells += [[name, other, count] for other, count in zip(names, counts) if count]
    cells = sorted(cells, key=itemgetter(2), reverse=True)[: wandb.Table.MAX_ROWS]
    columns = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=columns, data=cells),
        fields={name: name for name in columns},
        string_fields={"title": "pixels by true and predicted class"},
    )


# --- starting it


def start_wandb(
    mode: str, folder: Path, config: Mapping[str, Any], about: Mapping[str, Any]
) -> "wandb.Run | None":
    """The run in W&B, or None with a sentence. The mode is explicit, so that W&B never prompts."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    settings = wandb.Settings(
        console="off", silent=True, init_timeout=PATIENCE, finish_timeout=6 * PATIENCE
    )
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            return wandb.init(
                **about,
                mode=attempt,
                id=config["id"],
                resume="allow",
                dir=str(folder),
                config=dict(config),
                settings=settings,
            )
        except Exception as problem:
            then = "not mirrored in W&B"
            if attempt == "online":
                then = "logged offline"
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
