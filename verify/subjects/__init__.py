"""What is compared: a converted file and its checkpoint, ready to run."""
