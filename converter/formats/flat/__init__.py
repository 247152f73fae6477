"""FlatBuffers, and the FlexBuffers inside them: the containers of TensorFlow Lite."""
