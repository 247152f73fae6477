"""TensorFlow Lite files: the network is found in the graph, whatever its tensors are called."""
