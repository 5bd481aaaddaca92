"""Variables as people and Kubernetes give them: blanks around, quotes, names of no setting."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

PREFIX: Final = "DLR_"
# The simulator's variables, which may be in the same environment.
SIMULATOR_PREFIX: Final = "DLR_SIMULATOR_"


class Trimmed(PydanticBaseSettingsSource):
    """A source without the white space around its values. One that is then empty is not set.

    A secret out of Kubernetes or a file ends in a newline, which must not become a part of it.
    """

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        given = {name: trimmed(value) for name, value in self._source().items()}
        return {
            name: value
            for name, value in given.items()
            if value != "" and not (name == "port" and is_service_address(value))
        }


def trimmed(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def unquoted(value: Any) -> Any:
    """The value as it is. Raises `ValueError` if quotes are around it.

    `docker --env-file` and Kubernetes keep them, where a shell and systemd take them off.
    """
    if isinstance(value, str) and re.fullmatch(r"""(["']).*\1""", value, re.DOTALL):
        raise ValueError("has quotes around it; remove them")
    return value


def unknown(known: Iterable[str], in_file: Iterable[str]) -> dict[str, str | None]:
    """Names that no setting has, each with the nearest that exists: most likely they are misspelt.

    They come from the environment, `.env` and the secrets directory. Those that Kubernetes sets are
    left out.
    """
    names_known = {name.removeprefix(PREFIX) for name in known}
    given = {name.upper() for name in (*os.environ, *in_file)} - of_kubernetes()
    nearest: dict[str, str | None] = {}
    for name in sorted(given):
        word = name.removeprefix(PREFIX)
        if word == name or name.startswith(SIMULATOR_PREFIX) or word in names_known:
            continue
        found = get_close_matches(word, sorted(names_known), n=1)
        nearest[name] = f"{PREFIX}{found[0]}" if found else None
    return nearest


def of_kubernetes() -> set[str]:
    """The variables in which Kubernetes gives the addresses of its services.

    For a service `dlr` they are `DLR_PORT=tcp://…`, `DLR_SERVICE_HOST` and others.
    """
    # Only ours: a namespace may have hundreds of services, and all of them are in the environment.
    ours = {name: value for name, value in os.environ.items() if name.startswith(PREFIX[:-1])}
    services = [
        name.removesuffix("_PORT")
        for name, value in ours.items()
        if name.endswith("_PORT") and is_service_address(value)
    ]
    return {
        name
        for name in ours
        for service in services
        if re.fullmatch(f"{re.escape(service)}_(PORT(_.*)?|SERVICE_HOST|SERVICE_PORT(_.*)?)", name)
    }


def is_service_address(value: object) -> bool:
    return isinstance(value, str) and bool(re.match("(tcp|udp|sctp)://", value.strip()))
