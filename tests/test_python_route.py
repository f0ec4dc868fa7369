"""Tests of the Python route: what Lightning users do with a stock module, done with ours.

Each trial stands beside the same trial of a stock LightningModule and LightningDataModule.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader

import datamodules
import segmodels
from datamodules.streets import Streets
from segmodels.averaged_weights import AveragedWeights
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment
from tests.support.data import Noise
from tests.support.paths import ROOT
from tests.support.runs import CPU, content, only

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


# --- the two sides


class StockModule(LightningModule):
    """A stock module that segments by one convolution."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.network = nn.Conv2d(3, 3, 1)
        self.steps: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, label = batch
        self.steps.append(self.global_step)
        loss = nn.functional.cross_entropy(self.network(image.float()), label.long())
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        image, label = batch
        predicted = self.network(image.float()).argmax(1)
        self.log("val/mIoU", predicted.eq(label).float().mean())

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        image = batch["image"] if isinstance(batch, dict) else batch[0]
        return self.network(image.float()).argmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class StockData(LightningDataModule):
    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return pairs(4, self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return pairs(2, 1)

    def predict_dataloader(self) -> DataLoader:
        return pairs(2, 1)


def pairs(count: int, batch: int = 2, dtype: torch.dtype = torch.uint8) -> DataLoader:
    """A loader of random images 32 x 48 with three classes."""
    noise = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(count):
        image = torch.randint(256, (3, 32, 48), dtype=torch.uint8, generator=noise)
        label = torch.randint(3, (32, 48), dtype=torch.uint8, generator=noise)
        samples.append((image.to(dtype), label))
    return DataLoader(samples, batch_size=batch)


SMALL = {
    "iterations": 4,
    "batch": 2,
    "crop": (8, 12),
    "warmup": 0,
    "lr": 1e-4,
    "precision": "32-true",
}


def row() -> Experiment:
    return segmodels.experiment("fastscnn").but(recipe=SMALL)


def ours() -> SegmentationModule:
    return row().build(num_classes=3, seed=0)


def noise(**others: Any) -> Noise:
    return Noise(**row().data_options(workers=0, **others))


def trainer(**options: Any) -> Trainer:
    return Trainer(**QUIET | options)


SIDES = pytest.mark.parametrize(
    ("module", "data"), [(StockModule, StockData), (ours, noise)], ids=["stock", "ours"]
)
Module = Callable[[], LightningModule]
Data = Callable[[], LightningDataModule]


class Steps(Callback):
    """Counts steps and validations of a fit."""

    def __init__(self) -> None:
        self.trained = 0
        self.validated: list[int] = []

    def on_train_batch_end(self, *unused: Any) -> None:
        self.trained += 1

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)


# --- the same run as the command line


@pytest.mark.slow
def test_ten_lines_of_python_give_the_weights_of_the_command_line(tmp_path: Path) -> None:
    from experiments import evaluate, predict, run

    sizes = ["data.height=64", "data.width=128", "data.train=8", "data.val=3", "data.test=3"]
    values = ["recipe.iterations=7", "recipe.batch=4", "recipe.crop=64x128", "recipe.warmup=1"]
    words = ["--model", "bisenet", "--seed", "3", *sizes, *values, *CPU]
    assert run.main([*words, "--runs", str(tmp_path)]) == 0

    row = segmodels.experiment("bisenet").on(datamodules.Streets)
    row = row.but(recipe={"iterations": 7, "batch": 4, "crop": (64, 128), "warmup": 1})
    scenes = {"height": 64, "width": 128, "train": 8, "val": 3, "test": 3}
    data = datamodules.Streets(**scenes, **row.data_options(seed=3))
    module = row.build(num_classes=len(data.class_names), seed=3)
    trainer = Trainer(**row.trainer_options(**QUIET))
    trainer.fit(module, datamodule=data)

    stored = content(only(tmp_path) / "checkpoints" / "last.ckpt")
    own = module.state_dict()
    assert stored["state_dict"].keys() == own.keys()
    for name, tensor in stored["state_dict"].items():
        assert torch.equal(tensor, own[name]), name
    loaded = segmodels.from_checkpoint(str(only(tmp_path) / "checkpoints" / "last.ckpt"))
    assert loaded.recipe == module.recipe
    assert module.scores["step"] == 7

    # The commands read its checkpoint too.
    file = tmp_path / "from_python.ckpt"
    trainer.save_checkpoint(file)
    out = tmp_path / "evaluation.json"
    assert evaluate.main([str(file), "--data", "streets", *sizes, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["miou"] == module.scores["miou"]
    assert result["departures"] == ["trained from Python, where departures are not listed"]
    words = [str(file), str(ROOT / "docs" / "streets.png"), "--out", str(tmp_path / "predicted")]
    assert predict.main(words) == 0


def test_a_row_on_a_data_set_has_its_budget_and_then_its_own() -> None:
    row = segmodels.experiment("bisenet")
    on = row.on(Streets)
    for name, value in (Streets.budget | row.budgets.get("streets", {})).items():
        assert getattr(on.recipe, name) == getattr(row.but(recipe={name: value}).recipe, name)
    assert on.name == "bisenet/resnet18"
    assert row.on(datamodules.Cityscapes).recipe == row.recipe


def test_the_options_of_a_row_are_those_of_its_recipe() -> None:
    row = segmodels.experiment("bisenet")
    data = row.data_options(seed=5)
    assert (data["crop"], data["batch"], data["iterations"]) == ((768, 1536), 16, 80_000)
    assert data["seed"] == 5
    options = row.trainer_options(logger=False)
    assert (options["max_steps"], options["val_check_interval"]) == (80_000, 4000)
    assert options["precision"] == "32-true" and options["logger"] is False
    assert row.trainer_options(max_steps=50)["val_check_interval"] == 10
    twice = row.trainer_options(max_steps=50, accumulate_grad_batches=2)
    assert twice["val_check_interval"] == 20
    clipped = row.but(recipe={"clip": 0.5}).trainer_options()
    assert clipped["gradient_clip_val"] == 0.5


def test_a_data_module_takes_every_field_of_a_crop_from_a_recipe() -> None:
    from dataclasses import fields

    from datamodules.sampling.crops import Crop

    known = {field.name for field in fields(Crop)} - {"size"} | {"crop", "batch", "iterations"}
    assert set(row().data_options()) == known


def test_counted_class_weights_and_label_maps_reach_a_training_by_themselves() -> None:
    weighted = row().but(recipe={"class_weights": "median_frequency"})
    module = weighted.build(num_classes=3, seed=0)
    data = noise()
    trainer(max_steps=1, limit_val_batches=0).fit(module, datamodule=data)
    assert module.recipe.class_weights == data.class_weights("median_frequency")
    unet = segmodels.experiment("unet/valid").build(num_classes=3)
    unet.trainer = trainer()
    unet.trainer.datamodule = data
    unet.setup("fit")
    assert data.label_maps == unet.label_maps and unet.label_maps is not None


def test_averaged_weights_are_the_models_own_callback_and_there_once() -> None:
    module = row().but(recipe={"ema": 0.5}).build(num_classes=3, seed=0)
    given = trainer(max_steps=2)
    given.fit(module, datamodule=noise())
    assert sum(isinstance(each, AveragedWeights) for each in given.callbacks) == 1
    twice = trainer(max_steps=2, callbacks=[AveragedWeights(decay=0.5)])
    twice.fit(module, datamodule=noise())
    assert sum(isinstance(each, AveragedWeights) for each in twice.callbacks) == 1


def test_a_cpu_does_not_train_dilated_depthwise_convolutions_in_bfloat16() -> None:
    half = segmodels.experiment("fastscnn").but(recipe=SMALL | {"precision": "bf16-mixed"})
    with pytest.raises(ValueError, match=r"FastSCNN's dilated depthwise .* take 32-true"):
        half.trainer_options(accelerator="cpu")
    with pytest.raises(ValueError, match="dilated depthwise"):
        trainer(precision="bf16-mixed", max_steps=1).fit(ours(), datamodule=noise())
    assert (
        half.but(recipe={"precision": "auto"}).trainer_options(accelerator="cpu")["precision"]
        == "32-true"
    )


def test_other_networks_train_in_bfloat16_there() -> None:
    bisenet = segmodels.experiment("bisenet").but(recipe=SMALL)
    for module in (StockModule(), bisenet.build(3, seed=0)):
        fit = trainer(precision="bf16-mixed", max_epochs=1)
        fit.fit(module, pairs(4), pairs(2))
        assert fit.global_step == 2 and fit.callback_metrics["train/loss"].isfinite()


# --- fit


@SIDES
def test_a_second_fit_trains_as_long_as_the_first(module: Module, data: Data) -> None:
    shared = data()
    counts = []
    for _ in range(2):
        steps = Steps()
        trainer(max_epochs=1, max_steps=2, callbacks=[steps]).fit(module(), datamodule=shared)
        counts.append(steps.trained)
    assert counts == [2, 2]


def test_a_second_fit_is_given_the_batches_of_the_first() -> None:
    seen: list[list[Tensor]] = []

    class Witness(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, *_: Any) -> None:
            seen[-1].append(batch[0])

    shared = noise()
    for _ in range(2):
        seen.append([])
        trainer(max_steps=4, callbacks=[Witness()]).fit(ours(), datamodule=shared)
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_a_further_epoch_goes_on_with_new_draws_and_all_count() -> None:
    seen: list[Tensor] = []

    class Witness(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, *_: Any) -> None:
            seen.append(batch[0])

    data = noise()
    trainer(max_epochs=3, callbacks=[Witness()], use_distributed_sampler=False).fit(
        ours(), datamodule=data
    )
    assert len(seen) == 12 and data.consumed == 24
    straight = noise()
    straight.iterations = 12
    straight.setup("fit")
    alone = [image for image, _ in straight.train_dataloader()]
    assert all(torch.equal(one, other) for one, other in zip(seen, alone, strict=True))


@SIDES
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_few_steps_end_with_a_validation(module: Module, data: Data, steps: int) -> None:
    seen = Steps()
    trainer(max_epochs=-1, max_steps=steps, callbacks=[seen]).fit(module(), datamodule=data())
    assert seen.trained == steps
    # The stock loader has two batches, and only an epoch's last one is validated.
    last = steps if module is ours else steps // 2 * 2
    assert max(seen.validated, default=0) == last


def test_five_steps_finish_the_schedule_and_say_that_the_recipe_has_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = row().but(recipe={"iterations": 500, "warmup": 100}).build(3, seed=0)
    data = noise()
    data.iterations = 500
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        trainer(max_steps=5).fit(module, datamodule=data)
    assert module.lr_schedulers().get_last_lr() == pytest.approx([0.0, 0.0])
    assert "with the trainer's last step, 5; the recipe has 500" in caplog.text
    assert (module.recipe.iterations, module.recipe.warmup) == (500, 100)
    caplog.clear()
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        trainer(max_steps=4).fit(ours(), datamodule=noise())
    assert "schedule" not in caplog.text


@SIDES
def test_callbacks_and_flags_of_a_stock_training_work(
    module: Module, data: Data, tmp_path: Path
) -> None:
    saved = ModelCheckpoint(tmp_path, monitor="val/mIoU", mode="max", save_last=True)
    stop = EarlyStopping("val/mIoU", mode="max", patience=3)
    rates = LearningRateMonitor()
    logger = CSVLogger(tmp_path, name="csv")
    options = {
        "logger": logger,
        "enable_checkpointing": True,
        "log_every_n_steps": 1,
        "gradient_clip_val": 1.0,
        "val_check_interval": 1,
    }
    fit = trainer(max_steps=2, max_epochs=1, callbacks=[saved, stop, rates], **options)
    fit.fit(module(), datamodule=data())
    assert Path(saved.best_model_path).is_file() and stop.best_score is not None
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "val/mIoU" in text and "train/loss" in text
    assert fit.validate(module(), datamodule=data(), verbose=False)[0].keys() >= {"val/mIoU"}


@SIDES
@pytest.mark.parametrize(
    "options",
    [
        {"fast_dev_run": True},
        {"overfit_batches": 1, "max_epochs": 2},
        {"limit_train_batches": 1, "max_epochs": 1},
        {"accumulate_grad_batches": 2, "max_epochs": 1},
        {"max_epochs": 2, "callbacks": [StochasticWeightAveraging(0.01, swa_epoch_start=1)]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_flags_of_a_trainer_work(module: Module, data: Data, options: dict[str, Any]) -> None:
    fit = trainer(**options)
    fit.fit(module(), datamodule=data())
    assert fit.global_step >= 1 and "val/mIoU" in fit.callback_metrics


def test_the_progress_bar_shows_loss_and_miou() -> None:
    fit = trainer(max_steps=1)
    fit.fit(ours(), datamodule=noise())
    assert {"train/loss", "val/mIoU"} <= fit.progress_bar_metrics.keys()


def test_a_validation_logs_its_loss_and_the_iou_of_each_class() -> None:
    module = ours()
    fit = trainer(max_steps=1)
    fit.fit(module, datamodule=noise())
    data = noise()
    data.setup("fit")
    module.eval()
    total = pixels = 0
    for image, label in data.val_dataloader():
        with torch.no_grad():
            logits = module(image)
        label = label.long()
        total += nn.functional.cross_entropy(logits, label, ignore_index=255, reduction="sum")
        pixels += label.ne(255).sum()
    assert fit.callback_metrics["val/loss"] == pytest.approx((total / pixels).item(), rel=1e-5)
    for name, iou in zip(data.class_names, module.scores["iou"], strict=True):
        logged = fit.callback_metrics[f"val/IoU/{name}"].item()
        assert np.isnan(logged) if iou is None else logged == pytest.approx(iou)


# --- tuner


@SIDES
def test_the_learning_rate_finder_finds_its_field(
    module: Module, data: Data, tmp_path: Path
) -> None:
    tuned = module()
    fit = trainer(max_epochs=-1, default_root_dir=tmp_path, enable_checkpointing=True)
    found = Tuner(fit).lr_find(
        tuned, datamodule=data(), num_training=40, max_lr=0.5, early_stop_threshold=None
    )
    suggested = found.suggestion()
    assert suggested is not None and tuned.lr == suggested
    if module is ours:
        assert tuned.recipe.lr == suggested
        groups = tuned.parameter_groups()
        assert max(group["lr"] for group in groups) == pytest.approx(suggested)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_the_finder_as_a_callback_trains_on_at_its_rate(tmp_path: Path) -> None:
    finder = LearningRateFinder(num_training_steps=40, early_stop_threshold=None)
    module = ours()
    fit = trainer(
        max_steps=2,
        max_epochs=-1,
        callbacks=[finder],
        default_root_dir=tmp_path,
        enable_checkpointing=True,
    )
    fit.fit(module, datamodule=noise())
    assert module.recipe.lr == finder.optimal_lr.suggestion()
    assert fit.global_step == 2


@SIDES
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_batch_size_scaler_finds_its_field(module: Module, data: Data, tmp_path: Path) -> None:
    shared = data()
    fit = trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=True)
    size = Tuner(fit).scale_batch_size(module(), datamodule=shared, max_trials=2, init_val=2)
    assert size == shared.batch_size > 2


# --- checkpoints


@pytest.mark.parametrize("address", ["bisenet/thin_channels", "emanet/resnet50"])
def test_a_checkpoint_of_a_stock_trainer_restores_its_row(address: str, tmp_path: Path) -> None:
    chosen = segmodels.experiment(address).but(recipe=SMALL | {"crop": (64, 64), "lr": 0.125})
    module = chosen.build(num_classes=3, seed=0)
    fit = trainer(max_steps=1, limit_val_batches=0)
    fit.fit(module, pairs(2), pairs(1))
    fit.save_checkpoint(tmp_path / "a.ckpt")

    stock = type(module).load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True).eval()
    own = segmodels.from_checkpoint(str(tmp_path / "a.ckpt"))
    assert stock.recipe == own.recipe == module.recipe and stock.recipe.lr == 0.125
    assert stock.normalization == own.normalization == module.normalization
    assert stock.identity.experiment == own.identity.experiment == address
    assert stock.identity.model == own.identity.model
    assert stock.num_classes == 3
    assert stock.hparams["row"]["experiment"] == address
    assert stock.hparams["row"]["recipe"]["lr"] == 0.125
    image = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    stock.to(memory_format=torch.channels_last)  # as the training was
    with torch.no_grad():
        assert torch.equal(stock(image), own(image))
    # A checkpoint that is made of it can be read again.
    again = trainer(max_steps=2, limit_val_batches=0)
    again.fit(stock.train(), pairs(2), pairs(1))
    again.save_checkpoint(tmp_path / "b.ckpt")
    assert segmodels.from_checkpoint(str(tmp_path / "b.ckpt")).recipe.lr == 0.125


def test_a_module_of_a_row_keeps_its_own_recipe_when_it_goes_on(tmp_path: Path) -> None:
    first = trainer(max_steps=2, enable_checkpointing=False)
    first.fit(ours(), datamodule=noise())
    first.save_checkpoint(tmp_path / "a.ckpt")
    longer = row().but(recipe={"iterations": 6}).build(3, seed=0)
    data = noise()
    data.iterations = 6
    second = trainer(max_steps=6)
    second.fit(longer, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert second.global_step == 6 and longer.recipe.iterations == 6


# --- predict


@SIDES
def test_predictions_of_a_data_module(module: Module, data: Data) -> None:
    made = trainer().predict(module(), datamodule=data())
    assert len(made) == (2 if module is StockModule else 5)


def test_a_folder_is_predicted_with_file_names(tmp_path: Path) -> None:
    from PIL import Image

    sizes = {"b.png": (20, 30), "a.jpg": (33, 17), "c.PNG": (8, 9)}
    for name, (height, width) in sizes.items():
        pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, quality=95)
    (tmp_path / "notes.txt").write_text("no image")
    module = ours()
    made = trainer().predict(module, DataLoader(datamodules.Images(tmp_path)))
    assert [Path(each["file"][0]).name for each in made] == sorted(sizes)
    for each in made:
        file = Path(each["file"][0])
        label = each["label"]
        assert label.dtype == torch.uint8 and tuple(label.shape) == (1, *sizes[file.name])
        assert np.array_equal(label[0].numpy(), segmodels.predict(module.eval(), file))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(datamodules.DataError, match="holds no images"):
        datamodules.Images(tmp_path)


def test_predict_takes_images_alone_and_pairs() -> None:
    module = ours().eval()
    images = torch.randint(256, (2, 3, 16, 24), dtype=torch.uint8)
    (alone,) = trainer().predict(module, DataLoader(images, batch_size=2))
    label = torch.zeros(2, 16, 24, dtype=torch.uint8)
    both = DataLoader(torch.utils.data.TensorDataset(images, label), batch_size=2)
    (paired,) = trainer().predict(module, both)
    assert torch.equal(alone["label"], paired["label"])
    assert torch.equal(alone["label"], module(images).argmax(1).to(torch.uint8))


# --- what is printed


def test_data_modules_and_papers_print_short() -> None:
    data = noise()
    assert str(data) == repr(data) == "Noise(not read yet; crops 8x12, batch 2)"
    data.setup("fit")
    assert str(data) == "Noise(7 train, 5 val images; crops 8x12, batch 2)"
    text = repr(segmodels.papers())
    assert len(text) < 200 * len(segmodels.papers()) and "bisenet" in text
    short = repr(segmodels.experiment("bisenet/no_arm"))
    assert short.startswith("Experiment(bisenet/no_arm, ") and "arm=False" in short


# --- batches of plain loaders


def test_plain_loaders_train_the_main_row_of_a_paper() -> None:
    module = ours()
    fit = trainer(max_epochs=1)
    fit.fit(module, pairs(4), pairs(2, 1))
    assert fit.global_step == 2 and "val/mIoU" in fit.callback_metrics


def test_a_batch_of_dicts_is_refused_in_a_sentence() -> None:
    samples = [{"image": torch.zeros(3, 32, 48), "mask": torch.zeros(32, 48)}] * 2
    with pytest.raises(ValueError, match=r"a batch is a dict of image, mask; it must be a pair"):
        trainer(max_epochs=1).fit(ours(), DataLoader(samples, batch_size=2), pairs(1))


@pytest.mark.parametrize("value", [7, -3])
def test_a_label_that_is_no_class_is_named_with_its_place(value: int) -> None:
    image = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
    label = torch.zeros(2, 32, 48, dtype=torch.int64)
    label[0, 0, 0] = 255
    label[1, 5, 9] = value
    loader = DataLoader([(image[k], label[k]) for k in range(2)], batch_size=2)
    words = rf"a label holds {value} \(image 1 of the batch, row 5, column 9\); .* 0 to 2, and 255"
    with pytest.raises(ValueError, match=words):
        trainer(max_epochs=1).fit(ours(), loader, pairs(1))
    with pytest.raises(ValueError, match=words):
        trainer().validate(ours(), loader, verbose=False)


@pytest.mark.parametrize(("scale", "words"), [(255, "pixels of 0 to 1"), (1, "pixels of 0 to 255")])
def test_floats_that_look_like_pixels_are_warned_of_once(scale: int, words: str) -> None:
    image = torch.rand(4, 3, 32, 48).mul(255).div(scale)
    label = torch.zeros(4, 32, 48, dtype=torch.uint8)
    loader = DataLoader(list(zip(image, label)), batch_size=2)
    with pytest.warns(UserWarning, match=words) as caught:
        trainer(max_epochs=1).fit(ours(), loader, pairs(1))
    assert sum(words in str(each.message) for each in caught) == 1


@pytest.mark.parametrize(("least", "most"), [(-2, 2), (0, 2), (0, 19)])
def test_normalized_floats_are_taken_without_a_word(least: int, most: int) -> None:
    image = torch.empty(2, 3, 32, 48).uniform_(least, most)
    label = torch.zeros(2, 32, 48, dtype=torch.uint8)
    trainer(max_epochs=1).fit(ours(), DataLoader(list(zip(image, label)), batch_size=2), pairs(1))
