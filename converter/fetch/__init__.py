"""Files from URLs, on disk once."""
