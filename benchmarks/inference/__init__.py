"""How fast images become detections, on CPUs and GPUs."""
