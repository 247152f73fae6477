"""What reports say about an evaluation of detections."""
