"""From an image file to detections, and to a picture of them."""
