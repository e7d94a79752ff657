"""Faults and benign changes, put into transformers' own modules by code that shares nothing with opdiff's catalogue."""
