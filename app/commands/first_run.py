"""First run with the embedded database: make one token and one admin key, and keep them.

So a newcomer has a working service after one command. A server database means production, where the
operator sets the secrets.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.commands.credentials import new_secret
from app.settings import Settings, SettingsError, parse_api_key, parse_token

TOKEN_FILE: Final = "callback-token"  # noqa: S105 - a file's name
ADMIN_KEY_FILE: Final = "admin-key"


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The completed settings, and the new secrets, to be shown once."""

    settings: Settings
    new_token: str | None
    new_key: str | None


def with_secrets(settings: Settings) -> FirstRun:
    """Fill in missing secrets: the kept ones, else new ones.

    Raises `SettingsError` if one is missing with a server database.
    """
    found: dict[str, object] = {}
    new_token = new_key = None
    if not settings.callback_tokens and not settings.callback_allowed_networks:
        _refuse_on_a_server(settings, "DLR_CALLBACK_TOKENS", "`paasoo-dlr token new`")
        token, is_new = _kept_secret(settings.data_dir / TOKEN_FILE)
        found["callback_tokens"] = (token,)
        new_token = token if is_new else None
    if not settings.api_keys:
        _refuse_on_a_server(settings, "DLR_API_KEYS", "`paasoo-dlr key new NAME --role admin`")
        key, is_new = _kept_secret(settings.data_dir / ADMIN_KEY_FILE)
        found["api_keys"] = (parse_api_key(f"first-run:admin:{key}"),)
        new_key = key if is_new else None
    return FirstRun(settings.model_copy(update=found), new_token, new_key)


def _refuse_on_a_server(settings: Settings, name: str, command: str) -> None:
    if not settings.is_embedded:
        raise SettingsError(f"{name}: must be set with a server database; {command} makes one")


def _kept_secret(file: Path) -> tuple[str, bool]:
    """The secret in the file and False, or a new one, written to the file, and True."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            return parse_token(file.read_text().strip()), False
        secret = new_secret()
        _write_whole(file, secret + "\n")
    except ValueError:
        raise SettingsError(
            f"DLR_DATA_DIR: {file} holds no secret; delete it to get a new one"
        ) from None
    except OSError as error:
        raise SettingsError(f"DLR_DATA_DIR: can't keep secrets there: {error}") from None
    return secret, True


def _write_whole(file: Path, text: str) -> None:
    """Write a file that only its owner can read; after a crash it is whole or absent."""
    unfinished = file.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.rename(file)
