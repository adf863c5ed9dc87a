"""Open report.html in headless Chromium, and print its size and how long it takes until it is drawn.

    python scripts/open_report.py REPORT.html [--screenshot report.png] [--dark]

Needs Chromium. The time is from the start of the navigation to the end of the page's load event, in which its script draws.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars")  # fmt: skip
# When the load event has ended. The first kernel of the last lane is clicked, so that the picture has a card.
MEASURE = """<script>
window.addEventListener("load", () => setTimeout(() => {
  const [timing] = performance.getEntriesByType("navigation");
  document.body.dataset.loaded = timing.loadEventEnd.toFixed(0);
  document.body.dataset.kernels = document.querySelectorAll("#table tbody tr").length;
  const boxes = document.querySelectorAll("rect.frame");
  if (boxes.length) boxes[boxes.length - 1].dispatchEvent(new MouseEvent("click"));
}));
</script>"""


def main() -> int:
    """Run the command. Return 2 without Chromium."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--screenshot", type=Path, metavar="FILE", help="write a picture of the page")
    parser.add_argument("--dark", action="store_true", help="in the dark theme")
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        print("open_report needs Chromium", file=sys.stderr)
        return 2
    text = arguments.report.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(text.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
        command = [browser, *SWITCHES, f"--user-data-dir={folder}/user", "--window-size=1400,1000"]
        if arguments.dark:
            command.append("--blink-settings=preferredColorScheme=0")
        done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=True, timeout=120)
        if arguments.screenshot is not None:
            taken = [*command, f"--screenshot={arguments.screenshot.resolve()}", file.as_uri()]
            subprocess.run(taken, capture_output=True, check=True, timeout=120)
    kernels, ms = (re.search(rf'data-{name}="(\d+)"', done.stdout) for name in ("kernels", "loaded"))
    size = len(text.encode()) / 1000
    print(f"{arguments.report}: {size:.0f} kB, {kernels[1] if kernels else '?'} kernels, loaded in {ms[1] if ms else '?'} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
