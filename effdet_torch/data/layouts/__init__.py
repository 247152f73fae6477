"""Readers of data sets: one file for each layout; nothing is checked here but that files can be read."""
