"""Shared parts of every HTTP port: which addresses may be called, who is let in, and how HTTP/1.1 is spoken.

What the ports serve is defined elsewhere.
"""
