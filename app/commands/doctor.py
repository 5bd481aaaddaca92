"""`paasoo-dlr doctor`: look at all that the service needs, a line for each finding.

It changes nothing, runs beside `serve`, and goes on where a check can't be made.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from app.commands import doctor_database, doctor_disk
from app.commands.findings import Finding, counted, error, ok, show, standing_alone, warning
from app.commands.first_run import ADMIN_KEY_FILE, TOKEN_FILE
from app.guards import known_key
from app.sending.balance import refusal_in, told_in
from app.sending.paasoo_client import PaasooClient
from app.sending.problems import ProviderUnreachableError
from app.settings import (
    ENV_FILE,
    MIN_SECRET_LENGTH,
    Settings,
    has_unreadable_env_file,
    load_settings,
    unknown_variables,
)
from app.variables import of_kubernetes

WIDTH: Final = len("synchronous_commit")
TOO_SHORT: Final = f"has fewer than {MIN_SECRET_LENGTH} characters, so that it may be guessed"


def doctor() -> int:
    """Print what is found. Returns the exit code. Raises `SettingsError` for a wrong setting."""
    return show(_findings(load_settings()), WIDTH)


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from doctor_database.look(settings)
    for what, look in CHECKS.items():
        yield from standing_alone(what, partial(look, settings))


def look_at_variables(_settings: Settings) -> Iterator[Finding]:
    if has_unreadable_env_file():
        yield warning("variables", f"{ENV_FILE.absolute()} is ignored: this user can't read it")
    unknown = unknown_variables()
    for name, nearest in unknown.items():
        advice = f"is it {nearest}?" if nearest else "remove it"
        yield warning("variables", f"no setting is named {name}: {advice}")
    if "DLR_PORT" in of_kubernetes():
        words = (
            "DLR_PORT is ignored: Kubernetes sets it for a service of that name; rename that one"
        )
        yield warning("variables", words)
    elif not unknown:
        yield ok("variables", "every DLR_ name is a setting's")


def look_at_tokens(settings: Settings) -> Iterator[Finding]:
    tokens, networks = settings.callback_tokens, settings.callback_allowed_networks
    if not tokens:
        if networks:
            words = "none: only DLR_CALLBACK_ALLOWED_NETWORKS guards the callback; set one"
            yield warning("tokens", words)
        else:
            yield _of_first_run(settings, "tokens", "DLR_CALLBACK_TOKENS", TOKEN_FILE)
        return
    short = [place for place, token in enumerate(tokens, 1) if len(token) < MIN_SECRET_LENGTH]
    for place in short:
        words = f"number {place} of DLR_CALLBACK_TOKENS {TOO_SHORT}: `paasoo-dlr token new`"
        yield warning("tokens", words)
    if not short:
        yield ok("tokens", f"{counted(len(tokens), 'token')} of the callback")


def look_at_keys(settings: Settings) -> Iterator[Finding]:
    keys = settings.api_keys
    if not keys:
        yield _of_first_run(settings, "keys", "DLR_API_KEYS", ADMIN_KEY_FILE)
        return
    short = [(place, key.name) for place, key in enumerate(keys, 1) if key.is_short]
    for place, name in short:
        words = f"number {place} of DLR_API_KEYS ({name}) {TOO_SHORT}: `paasoo-dlr key new`"
        yield warning("keys", words)
    check_key = settings.check_key
    if check_key is not None and known_key(keys, check_key.get_secret_value()) is None:
        yield warning("keys", "DLR_CHECK_KEY is none of DLR_API_KEYS: `check` can't look up here")
    if not short:
        roles = ", ".join(f"{key.name} ({key.role.name.lower()})" for key in keys)
        yield ok("keys", roles)


def _of_first_run(settings: Settings, what: str, name: str, file: str) -> Finding:
    """The secret that `serve` makes for itself, with the embedded database alone."""
    if not settings.is_embedded:
        command = "`paasoo-dlr token new`" if what == "tokens" else "`paasoo-dlr key new`"
        return error(what, f"{name} is not set, and a server database needs it: {command}")
    path = settings.data_dir / file
    if not path.exists():
        return ok(what, "none yet: the first `serve` makes one")
    if not os.access(path, os.R_OK):
        return error(what, f"{path} can't be read: give it to the user of `serve` (chown)")
    if len(path.read_text().strip()) < MIN_SECRET_LENGTH:
        return warning(what, f"the one in {path} {TOO_SHORT}: delete it, and `serve` makes another")
    return ok(what, f"the one in {path}")


def look_at_account(settings: Settings) -> Iterator[Finding]:
    if settings.paasoo_key is None:
        yield ok("account", "none: nothing is sent, and nothing is asked")
        return
    if in_the_clear := settings.addresses_in_the_clear:
        words = (
            f"{', '.join(in_the_clear)}: plain http shows key and secret to the network; use https"
        )
        yield warning("account", words)
    else:
        yield ok("account", f"set, for {urlsplit(settings.paasoo_url).hostname}")
    if settings.paasoo_balance_url is not None:
        yield asyncio.run(_ask_for_balance(settings, settings.paasoo_balance_url))


async def _ask_for_balance(settings: Settings, url: str) -> Finding:
    key, secret = settings.paasoo_key, settings.paasoo_secret
    assert key is not None
    assert secret is not None
    client = PaasooClient(
        settings.paasoo_url, key.get_secret_value(), secret.get_secret_value(), None
    )
    host = urlsplit(url).hostname
    try:
        answer = await client.ask(url, {})
    except ProviderUnreachableError:
        words = f"{host} can't be reached: look at its name, and at the firewall on the way out"
        return error("balance", words)
    except Exception as failure:  # noqa: BLE001 - its text may quote the account
        return error("balance", f"no answer of {host} ({type(failure).__name__}): try again")
    finally:
        await client.close()
    return _judge_balance(answer)


def _judge_balance(answer: object) -> Finding:
    told = told_in(answer)
    if told is not None and float(told[0]) <= 0:
        return warning("balance", f"{told[0]} {told[1]}: PaaSoo sends nothing more; top it up")
    if told is not None:
        return ok("balance", f"{told[0]} {told[1]}")
    refusal = refusal_in(answer)
    if refusal is not None:
        names = "DLR_PAASOO_KEY, DLR_PAASOO_SECRET, and this machine's address at PaaSoo"
        return error("balance", f"refused ({refusal}): look at {names}")
    words = "PaaSoo's answer has no balance: is DLR_PAASOO_BALANCE_URL right for this account?"
    return error("balance", words)


Look = Callable[[Settings], Iterator[Finding]]
CHECKS: Final[Mapping[str, Look]] = {
    "data folder": doctor_disk.look_at_folder,
    "free space": doctor_disk.look_at_space,
    "spool": doctor_disk.look_at_spool,
    "variables": look_at_variables,
    "tokens": look_at_tokens,
    "keys": look_at_keys,
    "account": look_at_account,
}
