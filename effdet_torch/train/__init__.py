"""Training: step for step the official one, or with what has been learnt since."""
