"""One process that serves every kind of application of one interface, bare or installed, and what is asked of it."""
