"""The console: HTML pages for people beside the Management API."""
