"""`make screenshots`: pictures of the console with made-up reports, into docs/."""

import random
import sys
import time
from collections.abc import Iterator
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
from tests.service import ADMIN_KEY, Service, a_report, running_service

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
# The README's two; ARGS='all FOLDER' makes each page in each form.
SHOWN: Final = {"overview": "/", "message": "/messages/0528c4b7368321"}
PAGES: Final = {
    **SHOWN,
    "list": "/deliveries",
    "month": "/?span=30d",
    "live": "/live",
    "quarantine": "/quarantine",
    "set-up": "/set-up",
    "search": "/search?q=nothing",
}
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


def fill(service: Service) -> None:
    for status, statuscode in (
        (0, "accepted"),
        (0, "delivered"),
        (0, "delivered"),
        (404, "Absent Subscriber Temporary"),
    ):
        message_id = "0528c4b7368321"
        service.call_back(a_report(messageid=message_id, status=status, statuscode=statuscode))
    service.call_back("type=dlr&messageid=052804b7368329&status=0")
    service.call_back("type=dlr&messageid=052804b7368330&to=unknown&status=0")


def shoot(browser: Browser, base: str, pages: dict[str, str], folder: Path, **form: Any) -> None:
    name = f"-{form['color_scheme']}-{form['viewport']['width']}" if form else ""
    options = form or {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"}
    context = browser.new_context(base_url=base, **options)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("API key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("input[name=q]")
    for title, path in pages.items():
        page.goto(path)
        page.screenshot(path=folder / f"{title}{name}.png", full_page=bool(form))
    context.close()


def main() -> None:
    if CHROMIUM is None:
        sys.exit("screenshots: Chromium is missing; install it: apt-get install chromium")
    everything, *folders = sys.argv[1:] or [""]
    folder = Path(folders[0]) if folders else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as data:
        url = URL.create("sqlite", database=f"{data}/dlr.db")
        migrate(url)
        database = open_database(url, hurried=False)
        with database.transaction() as connection:
            write.record(connection, list(history(31)))
        database.close()
        with (
            running_service(url, data_dir=data) as service,
            sync_playwright() as playwright,
        ):
            fill(service)
            base = f"http://127.0.0.1:{service.port}"
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            if everything != "all":
                shoot(browser, base, SHOWN, folder)
                return
            for scheme in ("light", "dark"):
                for width in (360, 1440):
                    view = {"width": width, "height": 900}
                    shoot(browser, base, PAGES, folder, color_scheme=scheme, viewport=view)


if __name__ == "__main__":
    main()
