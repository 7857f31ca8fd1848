"""Comparison of the local engine with recorded exchanges of real Sequin servers."""
