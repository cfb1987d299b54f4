"""The search loop, its strategies and its journal. `hwnas.search` is a public function too: the package is callable."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Importing this package binds it as `hwnas.search`, where the interface has its function of the same name."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Search a space under a budget: `hwnas.api.search`."""
        return import_module("hwnas.api").search(*args, **settings)


sys.modules[__name__].__class__ = _CallablePackage
