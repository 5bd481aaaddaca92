from collections.abc import Iterator

import pytest

from tests.push.receiver import Hooks, Receiver, running_receiver
from tests.service import Service


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def hooks(service: Service) -> Hooks:
    return Hooks(service)
