"""Pages: templates filled in, and the headers that keep a browser from doing anything else."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from app.api.parts import parts_of
from app.api.times import EPOCH, rfc3339
from app.console import assets, words, zones
from app.console.country_names import NAMES
from app.console.sessions import Session, Sessions
from app.settings import Role

NOTHING: Final = "\u2013"  # a dash where there is no value
# Browsers, curl and proxies resolve these in a path, escaped or not (WHATWG URL, RFC 3986, 5.2.4).
DOTS: Final = frozenset({".", ".."})
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def sessions_of(request: Request) -> Sessions:
    sessions = parts_of(request).sessions
    assert sessions is not None  # there are no pages without them
    return sessions


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Fill in a template. A signed-in person's session is in the request's state."""
    session: Session | None = getattr(request.state, "session", None)
    context = {
        "root": request.scope["root_path"],
        "session": session,
        "roles": Role,
        "form_token": partial(sessions_of(request).form_token, session.id) if session else None,
        "q": "",
        "here": request.scope["path"].removeprefix(request.scope["root_path"]),
        "notice": None,
        "is_problem": False,
        "zone": zones.zone_of(request),
        **values,
    }
    html = TEMPLATES.get_template(template).render(context)
    return Response(html, status, SECURITY_HEADERS, "text/html; charset=utf-8")


def redirect(request: Request, path: str, **parameters: str | None) -> Response:
    """Go on to another page, by GET. The path begins with `/`, without the prefix."""
    given = {name: value for name, value in parameters.items() if value is not None}
    query = f"?{urlencode(given)}" if given else ""
    location = f"{request.scope['root_path']}{path}{query}"
    return Response(status_code=303, headers={**SECURITY_HEADERS, "Location": location})


def message_path(message_id: str) -> str:
    if message_id in DOTS:
        return f"/messages?id={message_id}"
    return f"/messages/{quote(message_id, safe='')}"


@pass_context
def _moment(context: Context, at: int | str | None) -> Markup | str:
    """A time, of the store or of the API, in the reader's own zone; in UTC on hover."""
    if not at:
        return NOTHING
    text = at if isinstance(at, str) else rfc3339(at)
    moment = datetime.fromisoformat(text)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        text, _written(moment), _written(zones.shifted(moment, context["zone"]))
    )


def _written(moment: datetime) -> str:
    return f"{moment.strftime('%-d %b %Y, %H:%M:%S')} {zones.name_of(moment)}"


def _number(value: int) -> str:
    return f"{value:,}"


def _percent(rate: float | None) -> str:
    return NOTHING if rate is None else f"{rate * 100:.1f} %"


def _ago(microseconds: int) -> str:
    """The time since then, in its largest unit."""
    now = (datetime.now(UTC) - EPOCH) // timedelta(seconds=1)
    return span(max(0, now - microseconds // 1_000_000))


def span(seconds: int) -> str:
    """A length of time in its largest unit: `3 hours`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = seconds // length
            return f"{number:,} {unit}{'s' if number > 1 else ''}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 report`, `1,200 reports`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _quoted(text: str) -> Markup:
    """A text of the log's, with what is between backticks as code."""
    pieces = [escape(piece) for piece in text.split("`")]
    pieces[1::2] = [Markup("<code>{}</code>").format(piece) for piece in pieces[1::2]]
    return Markup("").join(pieces)


@pass_context
def _asset(context: Context, file: str) -> str:
    return f"{context['root']}/static/{assets.NAMES[file]}"


@pass_context
def _message_link(context: Context, message_id: str) -> str:
    return f"{context['root']}{message_path(message_id)}"


def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("app.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "moment": _moment,
        "number": _number,
        "percent": _percent,
        "ago": _ago,
        "state": words.of_state,
        "reason": words.of_reason,
        "refusal": words.of_refusal,
        "counted": counted,
        "country": lambda code: NAMES.get(code, code),
        "quoted": _quoted,
        "sentence_case": lambda text: text[:1].upper() + text[1:],
    }
    found.globals |= {"asset": _asset, "message_link": _message_link, "sentence": words.sentence}
    return found


TEMPLATES: Final = _environment()
