"""What one array is to another, in words: weights and constants compared by the laws that hold at every entry."""

from .compared import compare_arrays
from .digits import differing_part, shown, told_apart
from .pair import Relation

__all__ = ["Relation", "compare_arrays", "differing_part", "shown", "told_apart"]
