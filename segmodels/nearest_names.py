"""Find what an unknown name means: the nearest known one, or ours for another library's word.

It imports no torch, since the command line answers by it.
"""

from collections.abc import Collection, Iterator
from difflib import get_close_matches

# Options of the command line and fields of a recipe, and what other libraries call them. A value
# that stands without a group is a choice of several options.
SYNONYMS = {
    "recipe.lr": "learning_rate base_lr init_lr lr0 rate",
    "recipe.iterations": "epochs epoch max_epochs num_epochs n_epochs steps max_steps max_iters "
    "iters num_iterations total_iters",
    "recipe.batch": "batch_size batchsize bs train_batch_size samples_per_gpu",
    "recipe.crop": "crop_size image_size img_size imgsz input_size size resolution",
    "recipe.scales": "scale scale_range ratio_range random_scale multi_scale",
    "recipe.jitter": "color_jitter photometric brightness contrast",
    "recipe.flip": "hflip horizontal_flip random_flip fliplr",
    "recipe.optimizer": "optim opt optimiser",
    "recipe.weight_decay": "wd decay l2",
    "recipe.schedule": "scheduler lr_scheduler lr_schedule lr_policy policy",
    "recipe.warmup": "warmup_steps warmup_iters warmup_epochs",
    "recipe.clip": "gradient_clip_val grad_clip clip_grad clip_norm max_grad_norm",
    "recipe.precision": "amp fp16 bf16 half mixed_precision",
    "recipe.loss": "criterion loss_fn loss_type",
    "recipe.norm_momentum": "bn_momentum bn_mom",
    "recipe.sync_bn": "sync_batchnorm syncbn",
    "trainer.accelerator": "gpu cuda device mps",
    "trainer.devices": "gpus num_gpus gpu_ids n_gpu num_devices nproc_per_node",
    "trainer.nodes": "num_nodes nnodes",
    "trainer.accumulate": "accumulate_grad_batches grad_accum gradient_accumulation_steps",
    "trainer.validate_every": "val_check_interval val_interval eval_interval val_every "
    "check_val_every_n_epoch eval_every",
    "trainer.checkpoint_every": "save_interval save_every every_n_train_steps",
    "trainer.log_every": "log_every_n_steps log_interval",
    "trainer.max_minutes": "max_time time_limit",
    "trainer.wandb": "logger use_wandb",
    "data.workers": "num_workers n_workers nw workers_per_gpu",
    "data.root": "data_root data_dir root_dir dataset_path path dir",
    "--init": "weights weight checkpoint ckpt pretrained pretrained_weights load_from finetune",
    "--resume": "resume_from resume_from_checkpoint ckpt_path",
    "--model": "arch architecture net",
    "--data": "dataset data_set",
    "--seed": "random_seed manual_seed random_state",
    "--runs": "output output_dir work_dir save_dir log_dir default_root_dir",
    "--semi": "ssl semi_supervised",
    "--smoke": "fast_dev_run debug dry_run",
    # choices
    "gpu": "cuda nvidia",
    "cuda": "gpu nvidia",
    "16-mixed": "fp16 16 half amp",
    "bf16-mixed": "bf16 bfloat16",
    "32-true": "fp32 32 full float32",
    "folder": "custom own",
}


def nearest_name(word: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """Return the known name that is meant; empty if none is like the word.

    Capitals, hyphens and underscores do not count, and another library's word is known.
    """
    names = {squeezed(name): name for name in known}
    if name := names.get(squeezed(word)):
        return name
    for ours in synonyms(word):
        for name in (ours, ours.rpartition(".")[2]):
            if name in known:
                return name
    matches = get_close_matches(squeezed(word), names, n=1, cutoff=cutoff)
    return names[matches[0]] if matches else ""


def synonyms(word: str) -> Iterator[str]:
    """Yield our names, such as "recipe.lr" or "--init", that another library's word means."""
    for ours, words in SYNONYMS.items():
        own = ours.rpartition(".")[2]
        if squeezed(word) in {squeezed(each) for each in (own, *words.split())}:
            yield ours


def squeezed(name: str) -> str:
    """Return "deeplabv3plus" for "DeepLab-v3+"."""
    name = name.lower().replace("+", "plus")
    return "".join(letter for letter in name if letter not in "-_ ")
