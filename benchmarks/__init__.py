"""Measurements against what people use today: run by hand, never part of the tests."""
