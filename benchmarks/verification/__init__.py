"""What verifying a model costs, and which mutations it notices."""
