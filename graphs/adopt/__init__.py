"""Adopting graphs that opdiff did not export: run once on one input, flat, with what no input changes folded away."""
