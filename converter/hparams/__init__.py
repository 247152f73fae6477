"""Hyperparameters in the official syntax: where they are stated, and what they mean."""
