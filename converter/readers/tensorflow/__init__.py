"""TensorFlow's and Keras' formats -> {TensorFlow variable name: array}, without TensorFlow."""
