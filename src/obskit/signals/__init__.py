"""The three views of the record. Only files in here import structlog, prometheus_client or opentelemetry."""
