"""What runs a network, behind one call: PyTorch itself, and the runtimes of exported files."""
