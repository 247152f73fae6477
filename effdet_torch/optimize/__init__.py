"""The same network for inference alone: fewer and cheaper steps, equal outputs."""
