"""Judging regions: same, rounding or semantic; what cancels, and channels in another order."""
