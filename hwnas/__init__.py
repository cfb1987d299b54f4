"""hwnas: from a search space to a network that is measured, exported and within budget, on your own board."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_device": "hwnas.api",
    "load_space": "hwnas.api",
    "profile": "hwnas.api",
    "fit": "hwnas.api",
    "fit_measurements": "hwnas.api",
    "estimate": "hwnas.api",
    "price": "hwnas.api",
    "search": "hwnas.api",
    "verify": "hwnas.api",
    "Budget": "hwnas.core.estimate",
    "Candidate": "hwnas.core.workload",
    "Device": "hwnas.core.device",
    "Estimate": "hwnas.core.estimate",
    "Fidelity": "hwnas.core.measurement",
    "HwnasError": "hwnas.errors",
    "LatencyTable": "hwnas.tables.table",
    "SearchResult": "hwnas.core.trial",
    "Trial": "hwnas.core.trial",
    "Workload": "hwnas.core.workload",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # PEP 562: `import hwnas` stays under 150 ms
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hwnas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
