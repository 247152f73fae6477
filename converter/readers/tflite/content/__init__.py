"""What a .tflite file holds: tensors, operations, constants, metadata; nothing about detectors."""
