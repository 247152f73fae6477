"""Where the parts of an EfficientDet are in a graph: backbone, pyramid, heads."""
