"""Open a report's page in headless Chromium, click a kernel, and read its card; skipped where there is no Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from graphstreams.reports.page import page
from graphstreams.reports.picture import picture
from tests.support.hand_plan import GRAPH, PLAN, US

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Behind the page's own script: click the first kernel named "long" in a stream's lane, and keep what can be seen then.
CLICK = """<script>
window.addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("rect.frame")].filter((box) => box.textContent.startsWith("load"));
  boxes[boxes.length - 1].dispatchEvent(new MouseEvent("click", { bubbles: true }));
  const shown = boxes[boxes.length - 1].getBoundingClientRect();
  document.title = JSON.stringify([shown.width, document.querySelectorAll("rect.frame.chosen").length]);
});
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def opened(file: Path, *more: str) -> str:
    """Return the document that Chromium has made of a page."""
    still = (
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    )
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *still, f"--user-data-dir={file.parent / 'user'}", *more]
    done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_clicking_a_kernel_shows_its_card(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    text = page("g", "", picture(PLAN, GRAPH, US))
    file.write_text(text.replace("</body>", f"{CLICK}</body>"), encoding="utf-8")
    document = opened(file, "--window-size=1400,900")
    card = re.sub(r"<[^>]+>", " ", document[document.index('id="card"') :][:3000])
    assert "load, stream 0, on the critical path" in card
    assert "layers.0" in card and "load.weight" in card
    title = re.search(r"<title>(\[.*?\])</title>", document)
    assert title is not None
    width, chosen = json.loads(title[1])
    assert width > 50 and chosen >= 1
