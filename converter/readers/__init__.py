"""Checkpoints on disk -> {TensorFlow variable name: array}, without TensorFlow."""
