"""One file for each kind of exporter: module and document in, files out."""
