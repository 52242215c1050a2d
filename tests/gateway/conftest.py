"""A toy model behind a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from temper.gateway.server import Gateway
from temper.policy import Policy
from tests.gateway.doors import opened


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of this process reach the gateway directly."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture(scope="session")
def policy(toy_model: str) -> Iterator[Policy]:
    made = Policy(model=toy_model, trainable=False)
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="session")
def tokenizer(policy: Policy) -> Any:
    return policy.tokenizer


@pytest.fixture(scope="session")
def door(policy: Policy) -> Iterator[Gateway]:
    """Open to everybody on this machine."""
    with opened(policy.sampler, policy.tokenizer) as gateway:
        yield gateway
