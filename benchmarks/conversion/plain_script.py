"""The script that people write today: TensorFlow reads, one transpose, `torch.save`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tensorflow as tf
import torch


def main(checkpoint: str, out: str) -> None:
    """Convert the averages of a checkpoint without looking at a single name."""
    reader = tf.train.load_checkpoint(checkpoint)
    state_dict: dict[str, Any] = {}
    for name in reader.get_variable_to_shape_map():
        if name.endswith("/ExponentialMovingAverage"):
            array = reader.get_tensor(name)
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            state_dict[name.replace("/", ".")] = torch.from_numpy(np.array(array, order="C"))
    torch.save({"state_dict": state_dict}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
