"""What a command says while it works."""
