"""Signing in and out, and all that keeps strangers out."""

import hmac
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from sqlalchemy import URL, select

from app.settings import Settings
from app.store.engine import open_database
from app.store.tables import console_secret
from tests.console.browsing import ADMIN_FORMS, HTML, a_person, text_of, token_of
from tests.databases import migrate
from tests.postgres import OF_TESTS, StoppableServer, new_database
from tests.process import until
from tests.query.test_messages import assert_problem
from tests.service import ADMIN_KEY, READ_KEY, SEND_KEY, TOKEN, Service, a_report, running_service

PAGES = (
    "/",
    "/?span=7d",
    "/?span=30d",
    "/deliveries",
    "/deliveries?state=delivered&country=TH&conflicting=true",
    "/live",
    "/search?q=052804b7368321",
    "/search?q=nothing",
    "/messages/052804b7368321",
    "/messages?id=052804b7368321",
)
ADMIN_PAGES = ("/quarantine", "/webhooks", "/set-up")
FILES = ("/deliveries.csv", "/live/events")


def test_before_signing_in_every_page_asks_for_a_key_and_tells_nothing(service: Service) -> None:
    service.call_back(a_report())
    with a_person(service, key=None) as person:
        for path in (*PAGES, *ADMIN_PAGES, *FILES):
            answer = person.http.get(path, headers=HTML)
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/sign-in"), path
            shown = person.open(path)
            assert 'name="key"' in shown.text
            assert "6588888888" not in shown.text


@pytest.mark.parametrize("key", [READ_KEY, SEND_KEY, ADMIN_KEY])
def test_key_of_each_role_opens_the_pages_of_that_role(service: Service, key: str) -> None:
    service.call_back(a_report())
    with a_person(service, key) as person:
        for path in PAGES:
            answer = person.open(path)
            assert answer.status_code == 200, path
            assert 'name="q"' in answer.text, path
        for path in ADMIN_PAGES:
            answer = person.open(path)
            assert answer.status_code == (200 if key == ADMIN_KEY else 403), path
            assert 'name="q"' in answer.text, path
            assert ("This page is not for your key" in answer.text) is (key != ADMIN_KEY), path
        links = person.open("/").text
        for path in ADMIN_PAGES:
            assert (f'href="{path}"' in links) is (key == ADMIN_KEY), path
        for path in FILES:
            assert person.http.head(path, headers=HTML).status_code == 200, path


def test_page_that_was_asked_for_opens_after_signing_in(service: Service) -> None:
    with a_person(service, key=None) as person:
        asked = person.open("/deliveries?to=%2B65+8888")
        path = asked.url.params["next"]
        answer = person.submit("/sign-in", asked, key=READ_KEY, next=path)

    assert answer.url.raw_path == b"/deliveries?to=%2B65+8888"


@pytest.mark.parametrize(
    "path", ["//evil.test", "/\\evil.test", "https://evil.test", "\t//evil.test", "", "x", "/\n/x"]
)
def test_signing_in_leads_to_no_other_host(service: Service, path: str) -> None:
    with a_person(service, key=None) as person:
        page = person.open("/sign-in")
        data = {"token": token_of(page), "key": READ_KEY, "next": path}
        answer = person.http.post("/sign-in", data=data, headers=HTML)

    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_cookie_is_for_this_site_and_no_script(service: Service) -> None:
    with a_person(service, key=None) as person:
        data = {"token": token_of(person.open("/sign-in")), "key": READ_KEY}
        cookie = person.http.post("/sign-in", data=data).headers["set-cookie"]

    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "Max-Age=43200" in cookie
    assert "Path=/" in cookie
    assert "secure" not in cookie.lower()
    assert READ_KEY not in cookie


def test_cookie_is_secure_if_a_trusted_proxy_says_https(database_url: URL) -> None:
    proxied = {"X-Forwarded-Proto": "https"}
    for trusted, is_secure in (("127.0.0.1", True), ("192.0.2.1", False)):
        with running_service(database_url, trusted_proxies=trusted) as service:
            cookie = service.http.get("/sign-in", headers=proxied).headers["set-cookie"]
        assert ("secure" in cookie.lower()) is is_secure


def test_signing_out_ends_the_session_wherever_its_cookie_is(own_service: Service) -> None:
    with a_person(own_service) as person, a_person(own_service, key=None) as thief:
        cookie = person.http.cookies["dlr_session"]
        thief.http.cookies["dlr_session"] = cookie
        assert thief.open("/deliveries").url.path == "/deliveries"

        answer = person.submit("/sign-out", person.open("/"))

        assert answer.url.path == "/sign-in"
        assert person.open("/deliveries").url.path == "/sign-in"
        assert thief.open("/deliveries").url.path == "/sign-in"


@pytest.mark.parametrize(
    ("seconds_ahead", "path"), [(30, "/deliveries"), (120, "/sign-in")], ids=["a bit", "far"]
)
def test_session_of_a_replica_whose_clock_is_ahead_is_known(
    own_service: Service, seconds_ahead: int, path: str
) -> None:
    with a_person(own_service) as reader, a_person(own_service, key=None) as person:
        cookie = reader.http.cookies["dlr_session"]
        signer = signer_then(own_service, -seconds_ahead)
        person.http.cookies["dlr_session"] = signer.dumps(signer.loads(cookie, max_age=None))

        assert person.open("/deliveries").url.path == path


@pytest.mark.parametrize(("seconds", "path"), [(-60, "/deliveries"), (1, "/sign-in")])
def test_session_ends_after_twelve_hours(own_service: Service, seconds: int, path: str) -> None:
    with a_person(own_service) as reader, a_person(own_service, key=None) as person:
        cookie = reader.http.cookies["dlr_session"]
        signer = signer_then(own_service, 12 * 3600 + seconds)
        person.http.cookies["dlr_session"] = signer.dumps(signer.loads(cookie))

        assert person.open("/deliveries").url.path == path


def signer_then(service: Service, seconds_ago: int) -> URLSafeTimedSerializer:
    """The signer of sessions' cookies, as it was so long ago."""

    class Then(TimestampSigner):
        def get_timestamp(self) -> int:
            return super().get_timestamp() - seconds_ago

    database = open_database(service.database_url)
    with database.read.connect() as connection:
        secret = connection.scalar(select(console_secret.c.secret))
    database.close()
    assert secret is not None
    key = hmac.digest(bytes.fromhex(secret), b"sign", "sha256")
    options = {"digest_method": sha256}
    return URLSafeTimedSerializer(key, salt="session", signer=Then, signer_kwargs=options)


def test_every_page_says_so_while_the_database_is_away(tmp_path: Path) -> None:
    with ExitStack() as opened:
        server = opened.enter_context(StoppableServer.started(OF_TESTS))
        url = opened.enter_context(new_database(server.url))
        migrate(url)
        settings = {"data_dir": tmp_path}
        service = opened.enter_context(running_service(url, **settings))
        person = opened.enter_context(a_person(service, ADMIN_KEY))
        stranger = opened.enter_context(a_person(service, key=None))
        service.call_back(a_report())
        page = person.open("/quarantine")

        server.stop("immediate")

        answers = {path: person.open(path) for path in (*PAGES, *ADMIN_PAGES, *FILES)}
        for path in ADMIN_FORMS:
            answers[f"POST {path}"] = person.submit(path, page, action="delete all")
        for path, answer in answers.items():
            assert answer.status_code == 503, path
            assert "Not available just now" in answer.text, path
            assert int(answer.headers["retry-after"]) > 0, path
            assert "traceback" not in answer.text.lower(), path
        # The form itself needs no database, so it comes until the outage is noticed.
        assert stranger.open("/deliveries").status_code in {200, 503}

        server.start()
        until(lambda: person.open("/").status_code == 200)
        assert "052804b7368321" in person.open("/deliveries").text


def test_session_ends_with_its_key_and_holds_on_other_replicas(database_url: URL) -> None:
    with running_service(database_url) as service, a_person(service) as person:
        cookie = person.http.cookies["dlr_session"]
    other_keys = {"api_keys": f"reader:read:{READ_KEY}x,boss:admin:{ADMIN_KEY}"}
    for changes, path in (({}, "/deliveries"), (other_keys, "/sign-in")):
        with (
            running_service(database_url, **changes) as service,
            a_person(service, key=None) as person,
        ):
            person.http.cookies["dlr_session"] = cookie
            assert person.open("/deliveries").url.path == path


def test_form_without_its_token_does_nothing(service: Service) -> None:
    service.call_back("type=dlr")
    with a_person(service, ADMIN_KEY) as person, a_person(service, ADMIN_KEY) as other:
        foreign = token_of(other.open("/"))
        for token in ("", "x", foreign):
            for path in ("/sign-out", "/quarantine/do", "/set-up/test-report"):
                answer = person.http.post(path, data={"token": token, "action": "delete all"})
                assert answer.status_code == 403, path
        assert person.open("/").url.path == "/"
    assert len(service.quarantine()) == 1


def test_wrong_keys_are_slowed_down_by_address(own_service: Service) -> None:
    with a_person(own_service, key=None) as person:
        page = person.open("/sign-in")
        answers = [person.submit("/sign-in", page, key=f"wrong-{number}") for number in range(8)]

        statuses = [answer.status_code for answer in answers]
        assert statuses[:5] == [401] * 5
        assert 429 in statuses[5:]
        slowed = next(answer for answer in answers if answer.status_code == 429)
        assert int(slowed.headers["retry-after"]) >= 1
        # Not even the right key tells itself apart.
        assert person.submit("/sign-in", page, key=READ_KEY).status_code == 429


def test_link_from_another_site_finds_the_session(service: Service) -> None:
    """The browser leaves a strict cookie out at first; the page asks for itself once more."""
    with a_person(service, key=None) as person:
        answer = person.http.get(
            "/messages/052804b7368321", headers={**HTML, "Sec-Fetch-Site": "cross-site"}
        )

    assert (answer.status_code, answer.headers["refresh"], answer.text) == (200, "0", "")


def test_pages_may_load_nothing_from_elsewhere_and_run_nothing_inline(service: Service) -> None:
    with a_person(service) as person:
        for path in (*PAGES, "/sign-in", "/nothing", "/quarantine"):
            answer = person.http.get(path, headers=HTML)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"
            assert " style=" not in answer.text
            assert "onclick" not in answer.text


def test_assets_are_kept_for_good_by_their_content(service: Service) -> None:
    page = service.http.get("/sign-in")
    for name in ("console.css", "console.js", "icon.svg"):
        stem, _, end = name.partition(".")
        (path,) = {
            part for part in page.text.split('"') if f"/static/{stem}." in part and end in part
        }
        answer = service.http.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert service.http.get("/static/console.css").status_code == 404


def test_browser_gets_a_page_for_an_unknown_path_and_a_program_the_problem(
    service: Service,
) -> None:
    for path in ("/nothing", "/v2/x", "/static/x"):
        assert_problem(service.get(path), 404, "not_found")
    page = service.http.get("/nothing", headers=HTML)
    assert page.status_code == 404
    assert "There is nothing here" in text_of(page)
    assert_problem(service.http.get("/v1/nothing", headers=HTML), 404, "not_found")
    # The callback's path never shows a page.
    wrong = service.http.get("/callback/paasoo/wrong", headers=HTML)
    assert_problem(wrong, 404, "not_found")
    assert service.call_back("type=dlr", headers=HTML).status_code == 400


def test_other_methods_are_405_and_head_is_get(service: Service) -> None:
    with a_person(service) as person:
        for path, methods in (("/", "GET, HEAD"), ("/sign-in", "GET, HEAD, POST")):
            answer = person.http.delete(path, headers=HTML)
            assert (answer.status_code, answer.headers["allow"]) == (405, methods)
            assert person.http.head("/deliveries").status_code == 200
        assert person.http.head("/live/events").status_code == 200


def test_prefix_of_a_proxy_is_in_every_link_and_cookie(database_url: URL) -> None:
    with running_service(database_url, root_path="/sms") as service:
        answer = service.http.get("/deliveries", headers=HTML)
        assert answer.headers["location"] == "/sms/sign-in?next=%2Fdeliveries"
        page = service.http.get("/sign-in")
        assert "Path=/sms" in page.headers["set-cookie"]
        assert 'action="/sms/sign-in"' in page.text
        # The client knows nothing of the proxy, so it would not send the cookie back.
        visit = {"Cookie": page.headers["set-cookie"].partition(";")[0]}
        data = {"token": token_of(page), "key": READ_KEY, "next": "/deliveries"}
        signed_in = service.http.post("/sign-in", data=data, headers=visit)
        assert signed_in.headers["location"] == "/sms/deliveries"
        session = {"Cookie": signed_in.headers["set-cookie"].partition(";")[0]}
        overview = service.http.get("/", headers=session)
        assert 'href="/sms/deliveries"' in overview.text
        assert 'href="/deliveries' not in overview.text


def test_console_that_is_off_leaves_nothing(database_url: URL) -> None:
    with running_service(database_url, console="off") as service:
        for path in ("/", "/sign-in", "/deliveries", "/nothing"):
            assert_problem(service.http.get(path, headers=HTML), 404, "not_found")


def test_console_is_on_by_default() -> None:
    assert Settings.model_fields["console"].default is True


def test_token_of_the_callback_is_on_no_page_unasked(service: Service) -> None:
    with a_person(service, ADMIN_KEY) as person:
        page = person.open("/set-up")
        assert TOKEN not in page.text
        shown = person.submit("/set-up/addresses", page)
        assert f"http://127.0.0.1:{service.port}/callback/paasoo/{TOKEN}" in shown.text
        for key in (READ_KEY, SEND_KEY, ADMIN_KEY):
            assert key not in shown.text
