"""The running programs of one home: starting, ending, watching and examining them. What the programs do is in their own packages."""
