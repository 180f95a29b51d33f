"""Our web pages: one file each, with the plotting library inside, which may load nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

WEB = Path(__file__).parents[1] / "web"


def load_page(name: str) -> str:
    """web/NAME with uPlot put in."""
    page = (WEB / name).read_text()
    for part in ("uPlot.min.css", "uPlot.iife.min.js"):
        page = page.replace(f"/* {part} */", (WEB / part).read_text())
    return page


def content_policy(page: str) -> str:
    """A Content-Security-Policy: the page's own scripts and styles, its own server, and pictures that it holds."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in found)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'"
    )
