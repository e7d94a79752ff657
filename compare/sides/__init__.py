"""The sides of a comparison: graphs and traces, with their values."""
