"""`make screenshots`: pictures of the console with made-up reports, into docs/."""

import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import URL

from app.callback.parse import parse
from app.reports import DeliveryReport
from app.store import write
from app.store.engine import open_database
from tests.console.conftest import CHROMIUM, OPTIONS
from tests.databases import migrate
from tests.service import ADMIN_KEY, READ_KEY, Service, a_report, running_service

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
# The README's two; ARGS='all FOLDER' makes each page in each form.
SHOWN: Final = {"overview": "/", "message": "/messages/0528c4b7368321"}
PAGES: Final = {
    **SHOWN,
    "sent": "/messages/order-4711",
    "unknown": "/messages/052804b7368322",
    "list": "/deliveries",
    "filtered": "/deliveries?state=undelivered&country=ID&since=2020-01-01T00:00:00Z",
    "faulty": "/deliveries?to=nobody",
    "nothing": "/deliveries?reference=nothing",
    "week": "/?span=7d",
    "month": "/?span=30d",
    "live": "/live",
    "quarantine": "/quarantine",
    "webhooks": "/webhooks",
    "set-up": "/set-up",
    "search": "/search?q=nothing",
    "found": "/search?q=order-4711",
    "missing": "/nothing",
}
# Of another key than an administrator's, of a stranger, and of a service without a report.
READERS: Final = {"not-yours": "/quarantine"}
STRANGERS: Final = {"sign-in": "/sign-in"}
EMPTY: Final = {
    "empty-overview": "/",
    "empty-list": "/deliveries",
    "empty-quarantine": "/quarantine",
    "empty-webhooks": "/webhooks",
}
# Nobody answers there, and nothing is asked before the pictures are made.
ACCOUNT: Final = {
    "paasoo_url": "http://127.0.0.1:9/json",
    "paasoo_key": "a-key",
    "paasoo_secret": "a-secret",
    "paasoo_report_url": "http://127.0.0.1:9/dlr",
}
MOST_HEIGHT: Final = 2400  # of a picture
HOUR_US: Final = 3_600_000_000
NETWORKS: Final = ("52099", "52099", "52501", "51010", "45400", "23410")
OUTCOMES: Final = (
    *(((0, "delivered"),) * 30),
    (404, "Absent Subscriber Temporary"),
    (404, "Illegal Number"),
    (404, "Anti-Spam Rejection"),
    (402, None),
    (0, "accepted"),
)


def history(days: int) -> Iterator[DeliveryReport]:
    """Reports of the days until now: few at night, and a bad network since this morning."""
    chance = random.Random(7)
    now = time.time_ns() // 1000
    for hour in range(days * 24):
        end = now - hour * HOUR_US
        by_day = 8 <= end // HOUR_US % 24 <= 22
        for number in range(chance.randint(40, 60) if by_day else chance.randint(5, 12)):
            network = chance.choice(NETWORKS)
            status, statuscode = chance.choice(OUTCOMES)
            if network == "51010" and hour < 5 and number % 2:
                status, statuscode = 404, "Network Error"
            query = a_report(
                messageid=f"{hour:03x}{number:03x}b7368{chance.randint(100, 999)}",
                to=f"65{chance.randint(80000000, 99999999)}",
                status=status,
                statuscode=statuscode,
                network=network,
            )
            yield parse(query.encode(), end - chance.randint(0, HOUR_US - 1))


def story() -> Iterator[DeliveryReport]:
    """A message with a late failure, and a repeat: what the picture of a message shows."""
    now = time.time_ns() // 1000
    for minutes, status, statuscode in (
        (126, 0, "accepted"),
        (125, 0, "delivered"),
        (94, 0, "delivered"),
        (41, 404, "Absent Subscriber Temporary"),
    ):
        query = a_report(messageid="0528c4b7368321", status=status, statuscode=statuscode)
        yield parse(query.encode(), now - minutes * HOUR_US // 60)


def fill(service: Service) -> None:
    # Nobody answers there: this one fails with the first change.
    headers, body = {"Authorization": f"Bearer {ADMIN_KEY}"}, {"url": "http://127.0.0.1:9/dlr"}
    service.http.post("/v1/webhooks", headers=headers, json=body)
    service.register("order-4711", to=["6591234567", "6581112222", "6587654321"], reference="4711")
    service.register("4712", to=["6591234567"], reference="order-4711")
    service.call_back(a_report(messageid="order-4711", to="6581112222", network="52501"))
    for status, statuscode in ((0, "accepted"), (404, "Illegal Number")):
        report = {"to": "6587654321", "status": status, "statuscode": statuscode}
        service.call_back(a_report(messageid="order-4711", network="52501", **report))
    service.call_back("type=dlr&messageid=052804b7368329&status=0")
    service.call_back("type=dlr&messageid=052804b7368330&to=unknown&status=0")


def shoot(
    browser: Browser,
    service: Service,
    pages: dict[str, str],
    folder: Path,
    *,
    key: str | None = ADMIN_KEY,
    **form: Any,
) -> None:
    name = f"-{form['color_scheme']}-{form['viewport']['width']}" if form else ""
    options = form or {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"}
    base = f"http://127.0.0.1:{service.port}"
    context = browser.new_context(base_url=base, timezone_id="Asia/Singapore", **options)
    page = context.new_page()
    if key is not None:
        page.goto("/")
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        page.wait_for_selector("input[name=q]")
    for title, path in pages.items():
        page.goto(path)
        file = folder / f"{title}{name}.png"
        if not form:
            page.screenshot(path=file)
            continue
        height = min(page.evaluate("document.documentElement.scrollHeight"), MOST_HEIGHT)
        clip: Any = {"x": 0, "y": 0, "width": form["viewport"]["width"], "height": height}
        page.screenshot(path=file, full_page=True, clip=clip)
    context.close()


def shoot_all(browser: Browser, service: Service, empty: Service, folder: Path) -> None:
    for scheme in ("light", "dark"):
        for width in (360, 1440):
            form: dict[str, Any] = {
                "color_scheme": scheme,
                "viewport": {"width": width, "height": 900},
            }
            shoot(browser, service, PAGES, folder, **form)
            shoot(browser, service, READERS, folder, key=READ_KEY, **form)
            shoot(browser, service, STRANGERS, folder, key=None, **form)
            shoot(browser, empty, EMPTY, folder, **form)


@contextmanager
def serving(reports: Iterable[DeliveryReport]) -> Iterator[Service]:
    """A service that has these reports."""
    with TemporaryDirectory() as data:
        url = URL.create("sqlite", database=f"{data}/dlr.db")
        migrate(url)
        if batch := list(reports):
            database = open_database(url, hurried=False)
            with database.transaction() as connection:
                write.record(connection, batch)
            database.close()
        with running_service(url, data_dir=data, **ACCOUNT) as service:
            yield service


def main() -> None:
    if CHROMIUM is None:
        sys.exit("screenshots: Chromium is missing; install it: apt-get install chromium")
    everything, *folders = sys.argv[1:] or [""]
    folder = Path(folders[0]) if folders else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with serving((*history(61), *story())) as service, sync_playwright() as playwright:
        fill(service)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        if everything != "all":
            shoot(browser, service, SHOWN, folder)
            return
        with serving(()) as empty:
            shoot_all(browser, service, empty, folder)


if __name__ == "__main__":
    main()
