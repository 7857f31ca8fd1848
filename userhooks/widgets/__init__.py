"""Panels for notebooks: `panels.py` holds those that make one call each, `fault_dial.py` the one that makes things go wrong."""

from userhooks.widgets.fault_dial import FaultDial
from userhooks.widgets.panels import BackfillPanel, GeneratePanel, InboxPanel, Panel, SubscribePanel

__all__ = ["BackfillPanel", "FaultDial", "GeneratePanel", "InboxPanel", "Panel", "SubscribePanel"]
