"""This package beside other packages, each in its own interpreter."""
