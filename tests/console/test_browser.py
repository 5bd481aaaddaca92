"""The console in a real browser: every page, both colour schemes, wide and narrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from tests.query.test_quarantine import put_in
from tests.service import ADMIN_KEY, READ_KEY, SEND_KEY, Service, a_report

ID = "052804b7368321"
HOSTILE = "<script>document.title='hacked'</script>"
GREETINGS = ("مرحبا " * 40).strip()
PATIENCE_MS = 30_000  # the machine may be busy
PAGES = (
    "/",
    "/?span=30d",
    "/deliveries",
    "/deliveries?to=abc",
    "/deliveries?conflicting=true&country=TH",
    "/deliveries?state=expired",
    f"/messages/{ID}",
    "/messages/sent-1",
    "/messages?id=..",
    "/messages/unknown",
    "/search?q=nothing",
    "/live",
    "/quarantine",
    "/webhooks",
    "/webhooks/unknown",
    "/set-up",
    "/nothing",
)
AXE: Final = Axe().axe_script
WCAG = {"runOnly": {"type": "tag", "values": [
    "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice",
]}, "resultTypes": ["violations"]}  # fmt: skip
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")


@contextmanager
def a_page(browser: Browser, service: Service, **options: Any) -> Iterator[Page]:
    """A page of the console. No request may go elsewhere, and nothing may go wrong in it."""
    complaints: list[str] = []
    base = f"http://127.0.0.1:{service.port}"
    context = browser.new_context(base_url=base, **options)
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page = context.new_page()
    page.on("request", lambda it: None if it.url.startswith(base) else complaints.append(it.url))
    page.on("pageerror", lambda it: complaints.append(str(it)))
    page.on("console", lambda it: complaints.append(it.text) if is_complaint(it) else None)
    yield page
    context.close()
    assert complaints == []


def is_complaint(message: Any) -> bool:
    """Chromium calls a page that is answered with 4xx an error, too."""
    return message.type in {"error", "warning"} and "the server responded with a status" not in (
        message.text
    )


def sign_in(page: Page, key: str = ADMIN_KEY, path: str = "/") -> None:
    page.goto(path)
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("input[name=q]")


def fill(service: Service) -> None:
    """Something for each page to show."""
    service.call_back(a_report())
    service.call_back(a_report(status=404, statuscode="Absent Subscriber Temporary"))
    service.call_back(a_report(to="6577777777", status=404, statuscode=HOSTILE, network=HOSTILE))
    service.call_back(a_report(to="6566666666", status=402, network="52501"))
    service.call_back(a_report(messageid=".."))
    service.call_back(a_report(messageid="w" * 128, status=404, statuscode="😀" * 255))
    service.register("sent-1", to=["6555555555"], reference=GREETINGS)
    service.call_back(f"type=dlr&messageid=&x={'y' * 300}")


def violations(page: Page) -> list[str]:
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found = page.evaluate("options => axe.run(options).then(it => it.violations)", WCAG)
    return [f"{page.url}: {it['id']}: {[node['html'] for node in it['nodes']][:3]}" for it in found]


def violations_in_both_schemes(page: Page, path: str) -> list[str]:
    found = []
    page.goto(path)
    page.locator("details").evaluate_all("all => all.forEach(it => it.open = true)")
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found += [f"{scheme}: {it}" for it in violations(page)]
    return found


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
@pytest.mark.parametrize("width", [360, 1440])
def test_every_page_is_accessible_and_fits(browser: Browser, service: Service, width: int) -> None:
    fill(service)
    with a_page(browser, service, viewport={"width": width, "height": 800}) as page:
        found = violations_in_both_schemes(page, "/")
        sign_in(page)
        for path in PAGES:
            found += violations_in_both_schemes(page, path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert "hacked" not in page.title()
    assert "\n".join(found) == ""


def test_support_finds_a_message_and_an_operator_replays(
    browser: Browser, service: Service
) -> None:
    fill(service)
    with a_page(browser, service) as page:
        sign_in(page, path=f"/messages/{ID}")
        expect(page.get_by_role("heading", name=ID)).to_be_visible()
        for asked in ("+65 7777-7777", "0065 77777777", ID, GREETINGS):
            page.locator("input[name=q]").fill(asked)
            page.get_by_role("button", name="Search").click()
            page.wait_for_url("**/messages/*")
        page.get_by_role("link", name="Quarantine").click()
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Delete the chosen").click()
        expect(page.get_by_role("heading", name="Delete 1 refused callback?")).to_be_visible()
        page.get_by_role("button", name="Delete 1").click()
        expect(page.get_by_role("status")).to_have_text("1 callback deleted.")
        expect(page.get_by_role("heading", name="Nothing was refused")).to_be_visible()
        put_in(service, a_report(messageid="again"))  # refused by an older version
        service.call_back("type=dlr&status=0")
        page.reload()
        page.get_by_role("button", name="Replay all 2").click()
        expect(page.get_by_role("heading", name="Replay 2 refused callbacks?")).to_be_visible()
        page.get_by_role("link", name="No, go back").click()
        expect(page.get_by_role("checkbox")).to_have_count(2)
        page.get_by_role("button", name="Replay all 2").click()
        page.get_by_role("button", name="Replay 2").click()
        expect(page.get_by_role("status")).to_have_text(
            "1 callback is stored now. 1 callback is still refused."
        )
        expect(page.get_by_role("checkbox")).to_have_count(1)
        page.goto("/messages/again")
        expect(page.get_by_text("Replayed from the quarantine")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/sign-in")
        page.goto("/deliveries")
        expect(page.get_by_label("API key")).to_be_visible()


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
@pytest.mark.parametrize("key", [READ_KEY, SEND_KEY, ADMIN_KEY])
def test_each_role_sees_its_pages(browser: Browser, service: Service, key: str) -> None:
    fill(service)
    is_admin = key == ADMIN_KEY
    with a_page(browser, service) as page:
        sign_in(page, key)
        pages = page.get_by_role("navigation", name="Pages")
        for name in ("List", "Live", "Overview"):
            pages.get_by_role("link", name=name).click()
            expect(pages.locator("[aria-current=page]")).to_have_text(name)
        for name in ("Quarantine", "Set-up"):
            expect(pages.get_by_role("link", name=name)).to_have_count(int(is_admin))
            page.goto(f"/{name.lower()}")
            title = name if is_admin else "This page is not for your key"
            expect(page.get_by_role("heading", level=1)).to_have_text(title)
            assert violations(page) == []


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_ids_that_are_no_path_open_all_the_same(browser: Browser, service: Service) -> None:
    for message_id in (".", ".."):
        service.call_back(a_report(messageid=message_id))
    with a_page(browser, service) as page:
        sign_in(page)
        for message_id in (".", ".."):
            page.locator("input[name=q]").fill(message_id)
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", level=1)).to_have_text(message_id)
            page.goto("/deliveries")
            page.get_by_role("link", name=message_id, exact=True).click()
            expect(page.get_by_role("heading", level=1)).to_have_text(message_id)
            page.goto(page.locator("#link").text_content() or "")  # from a ticket
            expect(page.get_by_text("The message has reached the phone.").first).to_be_visible()


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_live_view_ends_with_the_session(browser: Browser, service: Service) -> None:
    service.call_back(a_report())
    with a_page(browser, service) as page:
        sign_in(page, READ_KEY, "/live")
        expect(page.get_by_role("status")).to_have_text("Live")
        other = page.context.new_page()
        other.goto("/")
        other.get_by_role("button", name="Sign out").click()

        expect(page.get_by_label("API key")).to_be_visible()
        assert page.url.endswith("/sign-in?next=%2Flive")


def test_live_view_shows_reports_as_they_come_and_pauses(
    browser: Browser, service: Service
) -> None:
    with a_page(browser, service) as page:
        sign_in(page, READ_KEY, "/live")
        expect(page.get_by_role("status")).to_have_text("Live")
        service.call_back(a_report(statuscode=HOSTILE))
        expect(page.get_by_role("link", name=ID)).to_be_visible()
        for number in range(60):
            service.call_back(a_report(messageid=f"m-{number}"))
        expect(page.get_by_role("link", name="m-59", exact=True)).to_be_visible()
        assert page.locator("#live tr").count() <= 50

        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("status")).to_have_text("Paused")
        service.call_back(a_report(messageid="later"))
        page.get_by_role("button", name="Go on").click()
        service.call_back(a_report(messageid="later-still"))
        expect(page.get_by_role("status")).to_have_text("Live")


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_keyboard_is_enough(browser: Browser, service: Service) -> None:
    service.call_back(a_report())
    with a_page(browser, service) as page:
        page.goto("/")
        page.keyboard.type(READ_KEY)  # the field has the focus
        page.keyboard.press("Enter")
        page.wait_for_selector("input[name=q]")
        page.keyboard.type("+65 8888 8888")  # and so has the search box
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/messages/{ID}#to-6588888888")
        page.goto(f"/messages/{ID}")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the raw report opens
        expect(page.locator("pre", has_text="type=dlr")).to_be_visible()


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_without_a_script_everything_but_live_works(browser: Browser, service: Service) -> None:
    fill(service)
    with a_page(browser, service, java_script_enabled=False) as page:
        sign_in(page)
        page.locator("input[name=q]").fill(ID)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/messages/{ID}")
        expect(page.locator("time").first).to_contain_text("UTC")
        for path in PAGES:
            page.goto(path)
            expect(page.locator("h1")).to_have_count(1)
        page.goto("/live")
        expect(page.get_by_role("status")).to_have_text("Reload the page for the latest.")
        expect(page.get_by_role("link", name="sent-1")).to_be_visible()


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_times_are_in_the_readers_zone_with_utc_on_hover(
    browser: Browser, service: Service
) -> None:
    service.register("sent-1", to=["6555555555"], submitted_at="2020-06-01T20:00:00Z")
    with a_page(browser, service, timezone_id="Asia/Singapore", locale="en-GB") as page:
        sign_in(page, path="/messages/sent-1")
        sent = page.locator("time").first
        expect(sent).to_contain_text("2 Jun 2020, 04:00:00")
        expect(sent).to_contain_text("UTC+8")
        expect(sent).to_have_attribute("title", "1 Jun 2020, 20:00:00 UTC")
