"""Real runtimes: one forward pass of each, recorded as a trace."""
