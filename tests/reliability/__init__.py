"""What obskit promises when something fails, proven at full length: one package here per kind of trouble.

Each has a bounded form among the tests and a long form of its own (`make transparency`, `make faults` ...). The long
form writes what it saw with `results.keep`; `docs/reliability.md` is made of that.
"""
