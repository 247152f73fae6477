"""EfficientDet in TensorFlow: the only place that imports it, and nothing here shares code with the PyTorch model."""
