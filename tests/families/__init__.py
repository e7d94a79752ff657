"""Tiny models of transformers, one of each family, and the GGUF file that each would come from."""
