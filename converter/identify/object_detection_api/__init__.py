"""EfficientDet as the TensorFlow Object Detection API builds it: its names, its network, its settings."""
