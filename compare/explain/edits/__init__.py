"""Proved edits: the smallest change of A's region that, run on A's inputs, gives what B's gives."""
