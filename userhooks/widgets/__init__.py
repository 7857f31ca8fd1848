"""Panels for notebooks: `panels.py` holds those that make one call each, `response_panel.py` the one that chooses an inbox's answers,
`fault_dial.py` the one that makes things go wrong."""

from userhooks.shared.extras import lab_extra

with lab_extra():
    from userhooks.widgets.fault_dial import FaultDial
    from userhooks.widgets.panels import BackfillPanel, GeneratePanel, InboxPanel, Panel, SubscribePanel
    from userhooks.widgets.response_panel import ResponsePanel

__all__ = ["BackfillPanel", "FaultDial", "GeneratePanel", "InboxPanel", "Panel", "ResponsePanel", "SubscribePanel"]
