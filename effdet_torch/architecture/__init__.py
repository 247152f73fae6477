"""What follows from a few numbers: the blocks of a backbone, the nodes of the pyramid; without torch."""
