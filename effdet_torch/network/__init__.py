"""The network: backbone -> BiFPN -> class and box heads, and the files that hold its weights."""
