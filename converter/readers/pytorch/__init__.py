"""PyTorch's formats -> {TensorFlow variable name: array}, without PyTorch."""
