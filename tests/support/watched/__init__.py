"""Services under steady traffic, watched by Prometheus and Alertmanager with the shipped rules, and their faults."""
