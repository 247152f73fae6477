"""Everything before and after the network: in NumPy for the CPU, in torch for GPUs and for exported graphs."""
