"""`paasoo-dlr key new` and `token new`: secrets to hand out."""

import secrets
from hashlib import sha256

import typer


def new_secret() -> str:
    """256 random bits that need no escaping in a URL or a header."""
    return secrets.token_urlsafe(32)


def make_key(name: str, role: str) -> None:
    if not name or any(character in ":, \t\n" for character in name):
        raise typer.BadParameter("a name has no space, comma or colon", param_hint="NAME")
    key = new_secret()
    digest = sha256(key.encode()).hexdigest()
    typer.echo(f"key, for its user, shown once: {key}")
    typer.echo(f"item for DLR_API_KEYS:          {name}:{role}:sha256={digest}")


def make_token() -> None:
    typer.echo(new_secret())
