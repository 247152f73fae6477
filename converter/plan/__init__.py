"""Mapping tables and what follows from them: which TensorFlow variable becomes which PyTorch tensor, and how."""
