"""Graphs: their constants as a source, and what their operations show of the network."""
