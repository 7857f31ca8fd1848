"""The inspector's web pages as one response: page.html with the shared style, page.css, and the scripts inlined."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from userhooks import web

_HERE = Path(__file__).parent
_SCRIPTS = """
    page.js all_inboxes.js request_words.js json_view.js request_list.js request_detail.js response_editor.js one_inbox.js start.js
""".split()
"""The scripts in the order in which they run. The last one starts the page with the functions of the others."""


def _page() -> str:
    html = (_HERE / "page.html").read_text(encoding="utf-8")
    theme = Path(web.__file__).with_name("theme.css").read_text(encoding="utf-8")
    style = theme + (_HERE / "page.css").read_text(encoding="utf-8")
    scripts = "\n".join([(_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS])
    return html.replace("/* style */\n", style).replace("/* scripts */\n", scripts)


def _page_headers(page: str) -> dict[str, str]:
    """Return headers that allow only the page's own script and style, identified by hash, and requests to this server.

    They protect the page whatever a payload contains.
    """
    allowed = {tag: re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style")}
    hashes = {
        tag: " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)
        for tag, texts in allowed.items()
    }
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


PAGE = _page()
PAGE_HEADERS = _page_headers(PAGE)
