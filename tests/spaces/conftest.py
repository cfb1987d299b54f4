"""Fixtures of the search-space tests."""

from __future__ import annotations

import pytest
import torch
from small_spaces import SPACES


@pytest.fixture(scope="module", params=sorted(SPACES))
def space(request):
    return SPACES[request.param]()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
