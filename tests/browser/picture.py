"""Make the README's picture: notebook 01 with its inbox panel, beside the inspector's page of the same inbox.

python -m tests.browser.picture
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.lab import choose_theme, run_all, running_lab

PICTURE = Path(__file__).parents[2] / "notebooks" / "picture.png"
PAGE = """<body style="margin:0;padding:24px;display:flex;gap:24px;background:#e4e7eb;width:1600px;box-sizing:border-box">
{images}</body>"""
IMAGE = '<img src="data:image/png;base64,{data}" style="width:764px;border-radius:6px;box-shadow:0 1px 6px #0004">'


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="userhooks-picture-") as folder,
        running_lab(Path(folder)) as lab,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        choose_theme(lab, "JupyterLab Light")
        notebook = chromium.new_page(viewport={"width": 1050, "height": 1050})
        users = run_all(notebook, lab)
        texts = ["Ben liked your photo", "Your order has shipped", "Cy follows you now"]
        lab.stack.database.insert_notifications([(users["ada"], text) for text in texts])
        notebook.keyboard.press("Control+b")  # the file browser takes room
        arrived = notebook.locator(".jp-NotebookPanel:visible").get_by_text(texts[-1])
        arrived.wait_for()
        arrived.scroll_into_view_if_needed()
        inspector = chromium.new_page(viewport={"width": 1050, "height": 1050})
        inspector.goto(lab.stack.inspector.inbox("lesson 01: ada").page)
        inspector.get_by_role("option").first.click()
        inspector.get_by_text("Secret ok.").wait_for()
        inspector.get_by_text("Bearer ").first.evaluate("element => { element.textContent = 'Bearer …' }")
        images = [IMAGE.format(data=base64.b64encode(page.screenshot()).decode()) for page in (notebook, inspector)]
        both = chromium.new_page(viewport={"width": 1600, "height": 812})
        both.set_content(PAGE.format(images="".join(images)))
        both.screenshot(path=PICTURE)
        chromium.close()
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
