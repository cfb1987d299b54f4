"""Zero-cost proxies, and `score_proxies` for many candidates at once. Imports torch: load it late."""

from hwnas.accuracy.proxies.measures import grad_norm, macs, nwot, params, snip, synflow
from hwnas.accuracy.proxies.score import score_proxies

__all__ = ["grad_norm", "macs", "nwot", "params", "score_proxies", "snip", "synflow"]
