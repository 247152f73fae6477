"""TensorFlow Lite as a reference."""
