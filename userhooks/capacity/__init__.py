"""How much this machine delivers, and what many users cost: the measurements behind lesson 08 and `make bench`.

`LoadUsers` makes users by the thousand, all subscribed to one receiver that only counts, and takes them away again. `measure` holds what is
measured with them, `card` how it is shown. What is measured is what runs: nothing of the engine is switched off.
"""

from userhooks.capacity.card import Card, Point, frame
from userhooks.capacity.load_users import LoadUsers
from userhooks.capacity.measure import Latency, Throughput, capacity_card, latency, scale, throughput

__all__ = ["Card", "Latency", "LoadUsers", "Point", "Throughput", "capacity_card", "frame", "latency", "scale", "throughput"]
