"""TensorFlow Lite files, written as TensorFlow's own converter writes the official models."""
