"""The local engine held against recorded exchanges of real Sequin servers."""
