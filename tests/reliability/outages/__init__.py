"""Collectors that are away, hang, refuse, lie and come back, below a service under load.

`python -m tests.reliability.outages` is the long form; the tests here are the short one.
"""
