"""A running average of the weights, which is validated and saved in their place."""

from lightning import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging


class AveragedWeights(EMAWeightAveraging):
    """Validate with the running average of the weights, pictures included."""

    state_key = "Average"  # checkpoints of earlier runs have its state under this name

    # The base class puts the average in place for the batches of a validation alone.
    on_validation_start = EMAWeightAveraging.on_validation_epoch_start
    on_validation_end = EMAWeightAveraging.on_validation_epoch_end
    on_validation_epoch_start = Callback.on_validation_epoch_start
    on_validation_epoch_end = Callback.on_validation_epoch_end
