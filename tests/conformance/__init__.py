"""One set of cases over seven kinds of app on real servers; the three signals must say the same.

targets.py   which kinds, on which servers         apps/     the seven apps, with the same routes
model.py     what a case declares                  cases/    the cases, by what they are about
client.py    the clients, good and bad             checks.py claims of single cases
runner.py    plays a case and collects             views.py  the three views and their comparison

A case that fails prints the expectation, the log line, the metrics and the span side by side. One
of them alone: `pytest tests/conformance -k "flask-on-waitress and stream"`.
"""
