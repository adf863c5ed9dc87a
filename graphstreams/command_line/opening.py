"""Open a page of a report in the user's browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path


def open_page(page: Path) -> None:
    """Open a page in a browser, or print where it is if there is none."""
    try:
        opened = webbrowser.open(page.resolve().as_uri())
    except webbrowser.Error:
        opened = False
    if not opened:
        print(f"no browser was found; open {page}")
