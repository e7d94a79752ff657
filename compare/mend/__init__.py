"""Mending regions of B and running on: effects, closure, and what an input cannot show."""
