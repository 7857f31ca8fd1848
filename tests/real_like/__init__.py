"""A stand-in for a real Sequin 0.14.6: the engine with the timing that was recorded from that server.

`manners.py` has the figures, and `program.py` assembles the parts and runs them. `delivery.py` changes deliveries, `capture.py` the reading
of the slot, and `pages.py` the API's responses and the metrics page. All other requests and responses are the engine's. So a test that
passes here may still fail on a real server, but one that fails here fails there, too.
"""
