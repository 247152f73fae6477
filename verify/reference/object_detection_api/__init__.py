"""The Object Detection API's checkpoints as the reference reads them, by rules of its own."""
