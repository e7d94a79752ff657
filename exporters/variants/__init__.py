"""One torch module for each runtime, written the way that runtime does it."""
