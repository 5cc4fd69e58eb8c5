"""What the tests stand on: real servers, databases and Prometheus, receivers, and readers of their formats."""
