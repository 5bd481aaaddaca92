"""A service that sends through a provider of the tests, kept for many tests."""

from collections.abc import Iterator

import pytest

from tests.conftest import migrated_database
from tests.sending.provider import Provider, account_at, running_provider
from tests.service import Service, running_service


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider for this test alone."""
    with running_provider() as running:
        yield running


@pytest.fixture(scope="session")
def kept_provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


@pytest.fixture(scope="session")
def kept_sending(
    kept_provider: Provider,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("sending")
    with (
        migrated_database("sqlite", folder, request) as url,
        running_service(url, **account_at(kept_provider)) as service,
    ):
        yield service


@pytest.fixture
def sending(kept_sending: Service, kept_provider: Provider) -> Iterator[Service]:
    """A service that sends through `kept_provider`, for tests that any database would do for.

    Each test names its messages and its `Idempotency-Key`s itself.
    """
    kept_provider.asked.clear()
    yield kept_sending
    assert kept_provider.answers.empty()
