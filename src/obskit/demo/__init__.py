"""`obskit demo`: a shop of integrations/ as a real server process, traffic for it, and its telemetry on a screen."""
