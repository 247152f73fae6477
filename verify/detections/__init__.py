"""Detections on COCO: made, written, compared."""
