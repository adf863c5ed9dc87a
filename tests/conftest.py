"""Puts `sample_modules` where tests can import it, and keeps torch's trace records, which are many, out of pytest's log."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
logging.getLogger("torch.__trace").propagate = False
