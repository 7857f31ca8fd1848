"""Tests of the inspector, mostly over HTTP with the inspector in its own process."""
