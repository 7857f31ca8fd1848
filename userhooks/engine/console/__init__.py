"""The console: HTML pages for people, served on the same port as the Management API."""
