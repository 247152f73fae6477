"""A model to a file that another runtime runs: what each format can hold, how it is written, and the check of it."""
