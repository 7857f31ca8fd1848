"""A real kernel, as a notebook has one: runs cells, and has its Stop button pressed or its process killed."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PATIENCE = 120.0


@dataclass
class Shown:
    """What a cell showed: printed text, the lines of its error, and how long it took."""

    text: str = ""
    error: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Kernel:
    """A kernel whose cells are run one after the other."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager = manager
        self._client = client

    def run(self, code: str, on_text: Callable[[], None] = lambda: None) -> Shown:
        """Run a cell and return what it showed; `on_text` is called when it has printed for the first time."""
        began = time.monotonic()
        asked = self._client.execute(code)
        shown = Shown()
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                first = not shown.text
                shown.text += content["text"]
                if first:
                    on_text()
            elif message["msg_type"] in ("execute_result", "display_data"):
                shown.text += content["data"].get("text/plain", "")
            elif message["msg_type"] == "error":
                shown.error = _COLOUR.sub("", "\n".join(content["traceback"])).splitlines()
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                shown.seconds = time.monotonic() - began
                return shown

    def stop(self, code: str) -> Shown:
        """Run a cell that prints and then takes long, press Stop when it has printed; `seconds` are those from Stop to its end."""
        pressed: list[float] = []

        def press() -> None:
            pressed.append(time.monotonic())
            self._manager.interrupt_kernel()

        shown = self.run(code, press)
        shown.seconds = time.monotonic() - pressed[0]
        return shown

    def interrupt(self) -> None:
        """Press Stop."""
        self._manager.interrupt_kernel()

    def subshell(self) -> str:
        """Open a subshell, as JupyterLab does for the messages of widgets, and return its id."""
        asked = self._client.session.msg("create_subshell_request")
        self._client.control_channel.send(asked)
        while True:
            answer = self._client.get_control_msg(timeout=PATIENCE)
            if answer["parent_header"].get("msg_id") == asked["header"]["msg_id"]:
                return str(answer["content"]["subshell_id"])

    def click(self, button: str, subshell: str) -> None:
        """Click a button, given by its model's id, as JupyterLab does: the message names the subshell."""
        content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
        message = self._client.session.msg("comm_msg", content)
        message["header"]["subshell_id"] = subshell
        self._client.shell_channel.send(message)

    def shown(self, widget: str, value: str) -> None:
        """Wait until a widget, given by its model's id, has a value that contains this one."""
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE)
            content = message["content"]
            if message["msg_type"] == "comm_msg" and content["comm_id"] == widget and value in str(content["data"]["state"].get("value")):
                return

    def begin(self, code: str) -> None:
        """Run a cell and return when the kernel has begun with it; cells that are sent meanwhile run even if it fails."""
        asked = self._client.execute(code, stop_on_error=False)
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") == asked and message["msg_type"] == "execute_input":
                return

    def ends(self, code: str, before: float) -> bool:
        """Run a cell, and return whether it ended before a time of `time.monotonic`; if not, it is still running."""
        asked = self._client.execute(code)
        while (left := before - time.monotonic()) > 0:
            try:
                message = self._client.get_iopub_msg(timeout=left)
            except Empty:
                break
            if message["parent_header"].get("msg_id") == asked and message["content"].get("execution_state") == "idle":
                return True
        return False

    def kill(self) -> None:
        """End its process as a crash would."""
        self._manager.shutdown_kernel(now=True)


@contextmanager
def running_kernel(environment: Mapping[str, str], folder: Path) -> Iterator[Kernel]:
    """Start a kernel in `folder`; it is killed afterwards."""
    manager, client = start_new_kernel(kernel_name="python3", env=dict(environment), cwd=str(folder), stderr=subprocess.DEVNULL)
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
