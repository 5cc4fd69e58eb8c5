"""The long haul: an hour of constant load on every kind of server, each beside the same application without obskit.

    python -m tests.reliability.longhaul --minutes 60

While the collector goes and comes back and the clock jumps by an hour, memory, descriptors, threads and the cost of a
request stay what they were, and what was counted, written and sent agrees with what the clients saw.
"""

INSTALL = "LONGHAUL_INSTALL"
"""The service's name, for the process that is to have obskit; not set for the bare one."""
SLOW_S = 0.05
PART = b"a part of some length, which is what streams are made of\n" * 4
PARTS = 5
