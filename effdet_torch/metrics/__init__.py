"""The numbers by which detections are judged."""
