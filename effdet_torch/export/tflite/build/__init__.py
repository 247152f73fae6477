"""An EfficientDet as a graph of TensorFlow Lite, one part of the network a file."""
