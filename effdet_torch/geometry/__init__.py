"""Anchors, boxes and non-maximum suppression."""
