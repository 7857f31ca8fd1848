"""Benchmark of the inspector's page: time from a webhook's POST until Chromium shows it. A script.

    python -m benchmarks.page

The yardstick, in the same run, is the POST alone, which is answered once the webhook is stored.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import uvloop
from playwright.sync_api import Page, sync_playwright

from benchmarks.inspector import BODY, load, milliseconds
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.inspector.program import TOKEN, running
from userhooks.inspector.client import Inbox, InspectorClient

COUNT = 200
ENTRIES = 100_000
SEEN = """first => new Promise((done) => {
  const check = () => { const node = document.querySelector(".entry"); if (node && Number(node.dataset.seq) >= first) done(Date.now());
  else requestAnimationFrame(check); }; check();
})"""


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as program,
        InspectorClient(program.url, TOKEN) as client,
        sync_playwright() as playwright,
        httpx.Client(trust_env=False) as sender,
    ):
        inbox = client.inbox("bench")
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = chromium.new_page()
        page.goto(inbox.page)
        page.get_by_text("live", exact=True).wait_for()
        posts, visible = measured(page, sender, inbox)
        with ThreadPoolExecutor(1) as executor:  # Playwright runs a loop in this thread
            executor.submit(lambda: uvloop.run(fill(inbox, ENTRIES))).result()
        page.evaluate(SEEN, ENTRIES)
        _, visible_among_many = measured(page, sender, inbox)
        chromium.close()
    print(f"page latency           {milliseconds(visible)} (POST to visible in Chromium, {COUNT} webhooks)")
    print(f"  the POST alone       {milliseconds(posts)}, ratio of the medians {statistics.median(visible) / statistics.median(posts):.1f}")
    print(f"  with {ENTRIES:,} entries {milliseconds(visible_among_many)}")


def measured(page: Page, sender: httpx.Client, inbox: Inbox) -> tuple[list[float], list[float]]:
    """Return the seconds that each POST took, and the seconds until its webhook was visible."""
    posts, visible = [], []
    for number in range(inbox.count() + 1, inbox.count() + COUNT + 1):
        began = time.time()
        sender.post(inbox.url, content=BODY)
        posts.append(time.time() - began)
        visible.append(page.evaluate(SEEN, number) / 1000 - began)
    return posts, visible


async def fill(inbox: Inbox, upto: int) -> None:
    """Send webhooks until the inbox contains `upto` of them."""
    while inbox.count() < upto:
        await load(inbox.url, 0.2, 8)


if __name__ == "__main__":
    main()
