"""A comment's way in: limits, modes, words, patterns, crowds. Pure: no I/O, and time is an argument."""
