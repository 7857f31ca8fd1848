"""Panels for notebooks.

`panels.py` contains the panels that make one call each, `response_panel.py` edits an inbox's responses, and `fault_dial.py` injects faults.
"""

from userhooks.shared.extras import lab_extra

with lab_extra():
    from userhooks.widgets.fault_dial import FaultDial
    from userhooks.widgets.panels import BackfillPanel, GeneratePanel, InboxPanel, Panel, SubscribePanel
    from userhooks.widgets.response_panel import ResponsePanel

__all__ = ["BackfillPanel", "FaultDial", "GeneratePanel", "InboxPanel", "Panel", "ResponsePanel", "SubscribePanel"]
