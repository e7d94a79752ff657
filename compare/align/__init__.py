"""Alignment: which tensor of one side stands for which of the other."""
