"""Panels for notebooks.

`panels.py` contains the base class of all panels, and the panels that generate rows and run backfills. `subscribe_panel.py`,
`inbox_panel.py`, `response_panel.py`, and `fault_dial.py` contain one panel each.
"""

from userhooks.shared.extras import lab_extra

with lab_extra():
    from userhooks.widgets.fault_dial import FaultDial
    from userhooks.widgets.inbox_panel import InboxPanel
    from userhooks.widgets.panels import BackfillPanel, GeneratePanel, Panel
    from userhooks.widgets.response_panel import ResponsePanel
    from userhooks.widgets.subscribe_panel import SubscribePanel

__all__ = ["BackfillPanel", "FaultDial", "GeneratePanel", "InboxPanel", "Panel", "ResponsePanel", "SubscribePanel"]
