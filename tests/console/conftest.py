"""A browser, where the machine has one: Debian's Chromium."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")
# Root has no sandbox; the tests open only their own pages.
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage"]


# Of a module, not of the session: while it lives, Playwright's event loop counts as running.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()
