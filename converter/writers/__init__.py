"""A stream of tensors -> a file, without PyTorch."""
