"""Delivery capacity of this machine, and the cost of many users: the measurements behind lesson 08 and `make bench`.

`LoadUsers` creates thousands of users, subscribes them to one receiver that only counts requests, and removes them again. `measure`
takes the measurements, and `card` displays them. The engine is measured as it normally runs, with nothing switched off.
"""

from userhooks.capacity.card import Card, Point, frame
from userhooks.capacity.load_users import LoadUsers
from userhooks.capacity.measure import Latency, Throughput, capacity_card, latency, scale, throughput

__all__ = ["Card", "Latency", "LoadUsers", "Point", "Throughput", "capacity_card", "frame", "latency", "scale", "throughput"]
