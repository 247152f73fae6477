"""Layer by layer: which layers, how far apart, how far is too far."""
