"""The response panel: builds an inbox's response script rule by rule. `inspector/response_script.py` defines the rules."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from userhooks.errors import UserhooksError
from userhooks.inspector.response_script import LONGEST_DELAY, LONGEST_RETRY_AFTER, describe_script, parse_script
from userhooks.widgets.inbox_link import InboxLink
from userhooks.widgets.number_field import NumberField
from userhooks.widgets.panels import LABELLED, Panel, name_of, row_of, user_choice
from userhooks.widgets.status_line import Outcome

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
        self._applied: list[dict[str, Any]] = []
        self.user = user_choice(lesson)
        self.link = InboxLink(lesson, self.user.value)
        self.condition = ipywidgets.Dropdown(options=CONDITIONS, value="first", description="For which requests", style=LABELLED)
        self.many = NumberField("How many", 3, 0, 10**9, width="11em")
        self.seed = NumberField("Seed", 1, 0, 10**6, whole=True, width="9em")
        self.effect = ipywidgets.Dropdown(options=EFFECTS, description="Response", style=LABELLED)
        self.status = NumberField("Status", 500, 100, 599, whole=True, width="9em")
        self.delay = NumberField("Response delay, s", 0, 0, LONGEST_DELAY, width="13em")
        self.retry_after = NumberField("Retry-After, s (0: none)", 0, 0, LONGEST_RETRY_AFTER, whole=True, width="16em")
        self.add = _button("Add the rule", lambda: self._change([*self.rules, self.rule]))
        self.remove = _button("Remove the last rule", lambda: self._change(self.rules[:-1]))
        self.call = ipywidgets.HTML()
        conditions = row_of(self.condition, self.many, self.seed)
        effects = row_of(self.effect, self.status, self.delay, self.retry_after)
        below = [conditions, effects, row_of(self.add, self.remove), self.call]
        super().__init__(lesson, "Set these answers", "Let this user's inbox answer by these rules", [self.user], below, [self.link])
        for control in (self.condition, self.effect):
            control.observe(lambda _: self._fit(), "value")
        self.user.observe(lambda change: self._choose(change["new"]), "value")
        self._fit()
        self._do(self._begin)

    @property
    def rule(self) -> dict[str, Any]:
        """The rule of a response script that the controls are set to."""
        kind, rule = self.condition.value, {}
        if kind == "percent":
            rule = {"percent": self.many.number, "seed": self.seed.number}
        elif kind != "always":
            rule = {kind: self.many.number}
        if self.effect.value != "status":
            return {**rule, "effect": self.effect.value}
        rule["status"] = self.status.number
        if self.delay.value:
            rule["delay"] = self.delay.number
        return {**rule, "retry_after": self.retry_after.number} if self.retry_after.value else rule

    def act(self) -> str:
        """Apply the rules."""
        self.lesson.inbox(self.user.value).respond(self.rules)
        self._applied = self.rules
        return self._answers()

    def close(self) -> None:
        """Close the widget and its link."""
        self.link.close()
        super().close()

    def _choose(self, user: str) -> None:
        self.link.show(user)
        self._do(self._begin)

    def _begin(self) -> Outcome:
        self._applied = self.lesson.inbox(self.user.value).script()
        self._change(self._applied)
        return Outcome("idle", self._answers())

    def _answers(self) -> str:
        return f"{name_of(self.user.value)}'s inbox answers {'; '.join(describe_script(parse_script(self.rules)))}."

    def _change(self, rules: list[dict[str, Any]]) -> None:
        try:
            script = parse_script(rules)
        except UserhooksError as error:
            self._complain("Not added.", error)
            return
        self.rules = rules
        self.remove.disabled = not rules
        if script == parse_script(self._applied):
            self._say(self._answers())
        else:
            how = 'The inbox still answers as before. Click "Set these answers" to use these rules.'
            self._say(how, kind="pending", word="Not set yet.")
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in describe_script(script))
        call = html.escape(f'lesson.inbox("{self.user.value}").respond({rules or ""})')
        text = "color: var(--jp-ui-font-color1); line-height: 1.5; margin: 4px 0; overflow-wrap: anywhere"
        self.call.value = f'<ol style="{text}">{lines}</ol><p style="{text}">The same in a cell: <code>{call}</code></p>'

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
