"""What all of these tests run with: a cache of reference logits of their own, and one thread for small models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    # Threads that wait for each other cost more than they bring here.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIUM_EDGE_CACHE", str(tmp_path_factory.mktemp("logits")))
        yield
    torch.set_num_threads(threads)
