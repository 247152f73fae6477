"""What was found: its data, drawings, files, and the types of other packages."""
