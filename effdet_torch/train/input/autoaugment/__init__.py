"""AutoAugment and RandAugment for detection: what happens to pixels and boxes, and the learned policies."""
