"""What an evaluation on COCO costs, and what each of its settings is worth in AP."""
