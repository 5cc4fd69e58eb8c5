"""Every call obskit makes, made to fail one at a time and in pairs: `python -m tests.reliability.faults`.

`hook` rewrites obskit as it is imported so that each of its calls can be armed; `shapes` are the ways to fail; `apps`
are the applications and the servers made of lists that talk to them; `inject` runs one kind of application through
all of it, in a process of its own.
"""
