"""What a training reads: images for training and for validation, and the classes that its model gets."""
