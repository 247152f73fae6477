"""Containers: what bytes mean, whatever a model makes of them."""
