"""Benchmark: from a webhook's POST until it can be seen on the inspector's page in Chromium; a script.

    python -m tests.bench.page

The yardstick, in the same run, is the POST alone: its answer is sent when the webhook is stored.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

from tests.bench.inspector import BODY, milliseconds
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.inspector.program import running
from userhooks.inspector.client import InspectorClient

COUNT = 200
SEEN = """first => new Promise((done) => {
  const look = () => { const node = document.querySelector(".entry"); if (node && Number(node.dataset.seq) >= first) done(Date.now()); else requestAnimationFrame(look); };
  look();
})"""  # noqa: E501


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as program,
        InspectorClient(program.url) as client,
        sync_playwright() as playwright,
        httpx.Client(trust_env=False) as sender,
    ):
        inbox = client.inbox("bench")
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = chromium.new_page()
        page.goto(inbox.page)
        page.get_by_text("live", exact=True).wait_for()
        posts, shown = [], []
        for number in range(1, COUNT + 1):
            began = time.time()
            sender.post(inbox.url, content=BODY)
            posts.append(time.time() - began)
            shown.append(page.evaluate(SEEN, number) / 1000 - began)
        chromium.close()
    print(f"page latency           {milliseconds(shown)} (POST to seen in Chromium, {COUNT} webhooks)")
    print(f"  the POST alone       {milliseconds(posts)}, ratio of the medians {statistics.median(shown) / statistics.median(posts):.1f}")


if __name__ == "__main__":
    main()
