"""Two servers under constant load whose workers are killed, hung, recycled and reloaded; then the books are compared.

`python -m tests.torture` (`make torture`): minutes. The short form is in test_torture.py.
"""
