"""meetps/pytorch-semseg: classics in PyTorch whose authors wrote Caffe; it published no weights."""
