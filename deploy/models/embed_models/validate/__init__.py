"""Measures what a precision costs and gains, on held-out text, against the float32 graph."""
