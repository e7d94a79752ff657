"""Align, measure, locate, explain, judge, report: arrays and records in, one typed result out."""
