"""Contract suites for plug-in authors: subclass one, give it a fixture, and inherit every test of that extension point.

    class TestMySpace(SearchSpaceContract):
        @pytest.fixture
        def space(self):
            return MySpace()

The suites are what hwnas runs against its own parts; a part that passes works with the loops. They need pytest.
"""

from hwnas.testing.contracts import (
    ProxyContract,
    RunnerContract,
    SearchSpaceContract,
    StrategyContract,
    ToolchainContract,
    small_network,
)

__all__ = [
    "ProxyContract",
    "RunnerContract",
    "SearchSpaceContract",
    "StrategyContract",
    "ToolchainContract",
    "small_network",
]
