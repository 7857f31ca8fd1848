"""A stand-in for a real Sequin 0.14.6: the engine, changed to behave in time as that server was recorded to do.

`manners.py` has the figures, `program.py` puts the parts together and runs them, `delivery.py`, `capture.py` and `pages.py`
hold what is changed in deliveries, in the reading of the slot, and in the API's answers and the metrics page. What is sent and answered
stays the engine's otherwise, so what passes here need not pass on a real server; what fails here fails there.
"""
