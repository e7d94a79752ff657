"""Explaining regions at fault: which convention, at which node, and whom the reference agrees with."""
