"""The names of the formats, for the options of commands, whose help must not import the formats themselves."""

FORMAT_NAMES = ("onnx", "openvino", "torch", "aoti", "torchscript", "executorch", "tensorrt")
BACKENDS = FORMAT_NAMES[:-1]  # those that can be run here
