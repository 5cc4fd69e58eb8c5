"""The frameworks' own test suites, with obskit on every application they make: no test may fail that passes without.

`python -m tests.reliability.transparency` fetches the suites from the package index's source distributions, into a
folder outside of the repository, and runs each twice.
"""
