"""From TensorFlow variables to a PyTorch state_dict and back, with NumPy alone."""
