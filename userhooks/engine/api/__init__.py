"""The Management API: request bodies, responses, YAML, errors, and Prometheus metrics."""
