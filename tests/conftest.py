"""A database for every test that asks for one: the test runs on both kinds."""

import gc
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from shutil import copyfile

import pytest
from hypothesis import settings
from sqlalchemy import URL

from tests.databases import MigratedDatabases, emptying, migrate
from tests.postgres import new_database, running_server
from tests.process import until
from tests.service import Service, running_service

DATABASES = ("sqlite", "postgresql")

# On a busy machine an example may take long.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_report_header() -> str:
    return f"databases: {', '.join(DATABASES)}"


@pytest.fixture(autouse=True)
def _only_the_tests_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the machine's settings out: its environment, and a `.env`."""
    import os  # noqa: PLC0415

    for name in os.environ:
        if name.startswith("DLR_") and not name.startswith("DLR_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    with running_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: URL) -> Iterator[MigratedDatabases]:
    with MigratedDatabases.on(postgres_server) as databases:
        yield databases


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy."""
    path = tmp_path_factory.mktemp("template") / "dlr.db"
    migrate(URL.create("sqlite", database=str(path)))
    return path


@contextmanager
def migrated_database(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[URL]:
    if kind == "sqlite":
        path = folder / "dlr.db"
        copyfile(request.getfixturevalue("sqlite_template"), path)
        yield URL.create("sqlite", database=str(path))
        return
    databases: MigratedDatabases = request.getfixturevalue("postgres_databases")
    with databases.one() as url:
        yield url


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """An empty, migrated database for this test alone, once for each kind."""
    with migrated_database(request.param, tmp_path, request) as url:
        yield url


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """The same on PostgreSQL alone, for tests of several replicas."""
    with migrated_database("postgresql", tmp_path, request) as url:
        yield url


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """The same on SQLite alone: one database is enough for tests that don't depend on it."""
    with migrated_database("sqlite", tmp_path, request) as url:
        yield url


@pytest.fixture(params=DATABASES)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """A database without any table for this test alone, once for each kind."""
    if request.param == "sqlite":
        yield URL.create("sqlite", database=str(tmp_path / "dlr.db"))
        return
    with new_database(request.getfixturevalue("postgres_server")) as url:
        yield url


@pytest.fixture
def own_service(database_url: URL) -> Iterator[Service]:
    """A service for this test alone, because it stops it, damages it, or counts from 0."""
    with running_service(database_url) as running:
        yield running


@pytest.fixture(scope="session")
def kept_services(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_databases: MigratedDatabases,
    sqlite_template: Path,
) -> Iterator[dict[str, Service]]:
    """A running service on each kind of database: to start one takes longer than most tests."""
    with ExitStack() as stack:
        services = {}
        for kind in DATABASES:
            folder = tmp_path_factory.mktemp(kind)
            url = stack.enter_context(migrated_database(kind, folder, request))
            services[kind] = stack.enter_context(
                running_service(url, data_dir=folder, webhook_allowed_networks="127.0.0.0/8")
            )
        yield services


@pytest.fixture(scope="session")
def empty_again(kept_services: dict[str, Service]) -> Iterator[dict[str, Callable[[], None]]]:
    """A function for each of them that deletes all rows, once no report waits for its commit."""
    with ExitStack() as stack:

        def emptying_of(kept: Service) -> Callable[[], None]:
            delete_rows = stack.enter_context(emptying(kept.database_url))

            def empty() -> None:
                until(lambda: kept.app.parts.writer.queued == 0)
                delete_rows()

            return empty

        yield {kind: emptying_of(kept) for kind, kept in kept_services.items()}


@pytest.fixture(params=DATABASES)
def service(
    request: pytest.FixtureRequest,
    kept_services: dict[str, Service],
    empty_again: dict[str, Callable[[], None]],
) -> Iterator[Service]:
    """A service whose database is empty, once for each kind of database."""
    yield kept_services[request.param]
    empty_again[request.param]()


@pytest.fixture
def both_services(
    kept_services: dict[str, Service], empty_again: dict[str, Callable[[], None]]
) -> Iterator[list[Service]]:
    """The same on both kinds in one test, for one that takes long to find out what to ask."""
    yield [*kept_services.values()]
    for empty in empty_again.values():
        empty()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the modules of faults evenly: most of their time they wait, and the others compute."""
    modules = [list(module) for _, module in groupby(items, key=lambda item: item.path)]
    faults = [module for module in modules if module[0].path.parent.name == "faults"]
    others = [module for module in modules if module[0].path.parent.name != "faults"]
    placed = sorted([*_places(faults), *_places(others)], key=itemgetter(0))
    items[:] = chain.from_iterable(module for _, module in placed)


def _places(modules: list[list[pytest.Item]]) -> Iterator[tuple[float, list[pytest.Item]]]:
    """Each module with the share of tests, from 0 to 1, that its middle comes after."""
    total = sum(map(len, modules))
    before = 0
    for module in modules:
        yield (before + len(module) / 2) / total, module
        before += len(module)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from scanning all that is loaded, again and again."""
    gc.disable()
    collected = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return collected
