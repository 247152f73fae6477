"""What is watched: before a training, during it, and after every epoch."""
