"""Reports on graphs. Called, `graphstreams.reports()`, this module returns what became of the graphs of this process."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphstreams.runtime.verdicts import Verdict


class _Callable(ModuleType):
    """This module, with a call: the package's name for both is `reports`."""

    def __call__(self, name: str | None = None) -> list[Verdict]:
        """Return the verdict on each graph of this process, in the order in which they were compiled or loaded from a cache.

        `name` picks the graphs of one model (the `name` of torch.compile, else the class of the module), or one graph by its
        own. `str` of a verdict is the line that the log has.
        """
        from graphstreams.runtime.verdicts import verdicts_of

        return verdicts_of(name)


sys.modules[__name__].__class__ = _Callable
