"""Secrets planted wherever a request, an exception, a log call, a span or the environment can carry one, and sought."""
