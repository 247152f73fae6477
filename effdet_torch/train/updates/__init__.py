"""What turns gradients into new weights: schedule, clips, optimizers, moving averages, frozen parameters."""
