"""The official configuration, read a second time: shares no code with the converter or the PyTorch model."""
