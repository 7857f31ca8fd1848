"""The response panel: builds an inbox's response script rule by rule. `inspector/response_script.py` defines the rules."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from userhooks.errors import UserhooksError
from userhooks.inspector.response_script import LONGEST_DELAY, LONGEST_RETRY_AFTER, describe_script, parse_script
from userhooks.widgets.panels import LABELLED, Panel, name_of, user_choice

if TYPE_CHECKING:
    from userhooks.lessons.lesson import Lesson

CONDITIONS = (("always", "always"), ("the first", "first"), ("every nth", "every"), ("percent", "percent"))
EFFECTS = (
    ("answer with the status", "status"),
    ("never answer", "hang"),
    ("answer one byte per second", "drip"),
    ("reset the connection", "reset"),
    ("redirect to the inbox itself", "redirect"),
    ("answer 1 MB", "oversized"),
)


class ResponsePanel(Panel):
    """A panel that sets how a user's inbox responds: `lesson.inbox(user).respond(rules)`. The first rule that matches a request applies.

    The panel starts with the inbox's current rules. `Add the rule` appends the rule that the controls are set to. The main button applies
    all rules.

        panel = ResponsePanel(lesson)
        panel.condition.value, panel.many.value, panel.status.value = "first", 3, 500
        panel.add.click()
        panel.button.click()
    """

    def __init__(self, lesson: Lesson) -> None:
        self.rules: list[dict[str, Any]] = []
        self.user = user_choice(lesson)
        self.condition = ipywidgets.Dropdown(options=CONDITIONS, value="first", description="For which requests", style=LABELLED)
        self.many = ipywidgets.BoundedFloatText(3, min=0, max=10**9, description="How many", style=LABELLED, layout={"width": "11em"})
        self.seed = ipywidgets.BoundedIntText(1, min=0, max=10**6, description="Seed", style=LABELLED, layout={"width": "9em"})
        self.effect = ipywidgets.Dropdown(options=EFFECTS, description="What is done", style=LABELLED)
        self.status = ipywidgets.BoundedIntText(500, min=100, max=599, description="Status", style=LABELLED, layout={"width": "9em"})
        self.delay = ipywidgets.BoundedFloatText(
            0, min=0, max=LONGEST_DELAY, description="After, s", style=LABELLED, layout={"width": "10em"}
        )
        self.retry_after = ipywidgets.BoundedIntText(
            0, min=0, max=LONGEST_RETRY_AFTER, description="Retry-After, s (0: none)", style=LABELLED, layout={"width": "16em"}
        )
        self.add = _button("Add the rule", lambda: self._change([*self.rules, self.rule]))
        self.remove = _button("Remove the last rule", lambda: self._change(self.rules[:-1]))
        self.call = ipywidgets.HTML()
        conditions = _row(self.condition, self.many, self.seed)
        effects = _row(self.effect, self.status, self.delay, self.retry_after)
        below = [conditions, effects, _row(self.add, self.remove), self.call]
        super().__init__(lesson, "Set these answers", "Let this user's inbox answer by these rules", [self.user], below)
        for control in (self.condition, self.effect):
            control.observe(lambda _: self._fit(), "value")
        self.user.observe(lambda _: self._do(self._begin), "value")
        self._fit()
        self._do(self._begin)

    @property
    def rule(self) -> dict[str, Any]:
        """The rule of a response script that the controls are set to."""
        kind, rule = self.condition.value, {}
        if kind == "percent":
            rule = {"percent": self.many.value, "seed": self.seed.value}
        elif kind != "always":
            rule = {kind: int(self.many.value)}
        if self.effect.value != "status":
            return {**rule, "effect": self.effect.value}
        rule["status"] = self.status.value
        if self.delay.value:
            rule["delay"] = self.delay.value
        return {**rule, "retry_after": self.retry_after.value} if self.retry_after.value else rule

    def act(self) -> str:
        """Apply the rules."""
        self.lesson.inbox(self.user.value).respond(self.rules)
        return f"{name_of(self.user.value)}'s inbox answers {self._words()}."

    def _begin(self) -> str:
        self._change(self.lesson.inbox(self.user.value).script())
        return f"{name_of(self.user.value)}'s inbox answers {self._words()}."

    def _words(self) -> str:
        return "; ".join(describe_script(parse_script(self.rules)))

    def _change(self, rules: list[dict[str, Any]]) -> None:
        try:
            parse_script(rules)
        except UserhooksError as error:
            self._complain("Not added", error)
            return
        self.rules = rules
        self.remove.disabled = not rules
        self._say("Not set yet: the button above sets these answers.")
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in describe_script(parse_script(rules)))
        call = html.escape(f'lesson.inbox("{self.user.value}").respond({rules or ""})')
        self.call.value = f"<ol>{lines}</ol><p>The same in a cell: <code>{call}</code></p>"

    def _fit(self) -> None:
        """Disable the controls that the selected condition or effect does not use."""
        self.many.disabled = self.condition.value == "always"
        self.seed.disabled = self.condition.value != "percent"
        for control in (self.status, self.delay, self.retry_after):
            control.disabled = self.effect.value != "status"


def _button(text: str, do: Callable[[], None]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=text, layout={"width": "auto"})
    button.on_click(lambda _: do())
    return button


def _row(*controls: ipywidgets.Widget) -> ipywidgets.HBox:
    return ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})
