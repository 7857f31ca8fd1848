"""The processes of one home: start, stop, monitor, and diagnose them. What each program does is in its own package."""
