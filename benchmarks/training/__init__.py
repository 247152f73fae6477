"""What an update of a training costs: input, loss, the whole."""
