"""Proof that a converted model is the TensorFlow model."""
