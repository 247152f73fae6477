"""What people see of a command: its text, its usage and errors, how far it is."""
