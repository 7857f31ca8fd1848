"""Shared parts of every HTTP port: which addresses webhooks may be sent to, and which requests are admitted."""
