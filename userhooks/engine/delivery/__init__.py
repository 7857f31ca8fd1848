"""Delivery: turns messages into HTTP requests and handles their outcome. Independent of where the messages come from."""
