"""The soak: ordinary visitors by the hundred thousand, and faults planted among them; nothing else may be found.

    python -m tests.soak --requests 200000

Starts the three shops of `integrations/` on SQLite, visits them the way browsers, scripts, pollers and health checks
do, and holds the findings of their log lines and of /metrics against what was planted. Exit status 1, with the lines
that should not be there, when they differ.
"""
