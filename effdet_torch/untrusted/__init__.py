"""What comes from strangers, before anything is made of it: their files, documents and text. Knows nothing else."""
