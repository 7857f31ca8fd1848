"""A link to an inbox's page in the inspector that does not expire while the kernel runs."""

from __future__ import annotations

import html
import threading
import time
from typing import TYPE_CHECKING

import ipywidgets

from userhooks.errors import UserhooksError
from userhooks.web.access_tokens import LINK_SECONDS

if TYPE_CHECKING:
    from userhooks.lessons.lesson import Lesson

RENEW_SECONDS = LINK_SECONDS / 2
"""Age in seconds at which a link is replaced."""

CHECK_SECONDS = 30.0
"""Seconds between checks of the link's age, and so the time within which a computer that was asleep renews its links."""


class InboxLink(ipywidgets.HTML):  # type: ignore[misc]  # ipywidgets is untyped
    """A link that opens a user's inbox in a new tab."""

    def __init__(self, lesson: Lesson, user: str) -> None:
        super().__init__()
        self._lesson = lesson
        self._ended = threading.Event()
        self.show(user)
        self._renewer = threading.Thread(target=self._renew, name="userhooks inbox link", daemon=True)
        self._renewer.start()

    def show(self, user: str) -> None:
        """Link to this user's inbox; show nothing if the inbox is gone, because the lesson was closed or started again."""
        self._user = user
        self._made_at = time.time()
        try:
            address = html.escape(self._lesson.inbox(user).page)
        except UserhooksError:  # the panel reports it
            self.value = ""
            return
        # The style keeps the link beside the button, and in the theme's color.
        self.value = (
            f'<a href="{address}" target="_blank" rel="noopener" style="color: var(--jp-content-link-color); text-decoration: underline; '
            f'white-space: nowrap">Open {html.escape(user.capitalize())}\'s inbox <span aria-hidden="true">↗</span></a>'
        )

    def close(self) -> None:
        """Stop renewing the link, and close the widget."""
        self._ended.set()
        super().close()

    def _renew(self) -> None:
        while not self._ended.wait(CHECK_SECONDS):
            if time.time() - self._made_at >= RENEW_SECONDS:
                self.show(self._user)
