"""The verdict on whole runtimes: greedy decoding against real ones, step by step."""
