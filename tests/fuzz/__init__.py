"""A fuzzer of every file and text that opdiff reads. `python -m fuzz --help` in tests/ runs it; `test_fuzz.py` runs a part.

What counts as a failure: a traceback, a death by signal, more than one line of error, another status than 0, 1 or 2, over
10 s of CPU, over 2 GB more than before, a control character on the terminal, or a file left behind.
"""
