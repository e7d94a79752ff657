"""A result in words and tables."""
