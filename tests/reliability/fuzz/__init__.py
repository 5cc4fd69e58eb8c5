"""Hostile input, random names, damaged files: what comes from outside never breaks an answer, a line or a bound.

`make fuzz` (`python -m tests.reliability.fuzz`) is the long form: millions of inputs, a million names for labels,
every parser timed with twice as much, every kind of damage under a state folder. The tests here are its bounded form.
"""
