"""The Management API: requests, responses, YAML, errors, and the page of metrics."""
