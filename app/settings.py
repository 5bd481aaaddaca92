"""Every setting, with its description. Read once, at start, and passed on.

No other module reads the environment, but for systemd's sockets. A test fails if
`docs/settings.md` lacks a setting.
"""

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableSourceError
from sqlalchemy import URL

from app import database_url, variables

PREFIX: Final = variables.PREFIX
ENV_FILE: Final = Path(".env")  # in the working directory
DEFAULT_SECRETS_DIR: Final = "/run/secrets"  # where Docker and Compose mount secrets

# A shorter token or key may be guessed.
MIN_SECRET_LENGTH: Final = 20
IPV4_MAPPED_BITS: Final = 96  # those before the IPv4 address in `::ffff:192.0.2.1`

Network = IPv4Network | IPv6Network


class SettingsError(Exception):
    """A setting is wrong. The message is one line, names the setting, and holds no secret."""


class Role(IntEnum):
    """The rights of an API key; each role contains the ones before."""

    READ = 1
    SEND = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as its SHA-256, so that the key itself is not kept in memory."""

    name: str
    role: Role
    digest: bytes
    is_short: bool = False  # unknown, so False, if it was given as its digest


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError("has an empty item")
    return [variables.unquoted(part) for part in parts]


def _list_of(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        return tuple(map(parse, _parts(value))) if isinstance(value, str) else value

    return validate


def parse_token(text: str) -> str:
    # Characters that need no escaping in a path, so that PaaSoo sends the token unchanged.
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", text):
        raise ValueError("a token may have only letters, digits and `._~-`")
    return text


def parse_api_key(text: str) -> ApiKey:
    """Parse `name:role:key`, where `key` is the plain key or `sha256=` and its digest in hex."""
    name, _, rest = text.partition(":")
    role, _, key = rest.partition(":")
    if not name or not key:
        raise ValueError("a key must be given as name:role:key, and none of them empty")
    if role.upper() not in Role.__members__:
        raise ValueError("a key must be given as name:role:key, the role read, send or admin")
    digest = sha256(key.encode()).digest()
    if key.startswith("sha256="):
        try:
            digest = bytes.fromhex(key.removeprefix("sha256="))
        except ValueError:
            digest = b""
        if len(digest) != sha256().digest_size:
            raise ValueError("sha256= must be followed by 64 hexadecimal digits")
    return ApiKey(name, Role[role.upper()], digest, is_short=len(key) < MIN_SECRET_LENGTH)


def _parse_network(text: str) -> Network:
    try:
        given = ip_interface(text)
        mapped = getattr(given.ip, "ipv4_mapped", None)
        prefix = given.network.prefixlen - IPV4_MAPPED_BITS
        if mapped is None:
            return ip_network(text)
        if prefix >= 0:
            # Callers over IPv4 are compared as IPv4: the mapped network would match none of them.
            return IPv4Network((mapped, prefix))
    except ValueError as error:
        raise ValueError(f"{error}; expected an address or CIDR") from None
    raise ValueError(f"{text} is an IPv4 network within IPv6: its prefix is 96 or longer")


def _parse_database_url(value: Any) -> Any:
    return database_url.parse(value) if isinstance(value, str) else value


def _provider_address(text: str) -> str:
    """Check an address that takes a query behind it. Refuse a user in it: logs would show it."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isascii() or not text.isprintable() or set(text) & set(" ?#@"):
        raise ValueError("must be an http or https address, as in https://api.paasoo.com/json")
    return text


# PaaSoo's public pages advise letters and digits, at most 11: an SMS has room for no more. A number
# has up to 15 digits (E.164).
SENDER_ID_PATTERN: Final = r"^([0-9]{1,15}|[A-Za-z0-9]([A-Za-z0-9 ]{0,9}[A-Za-z0-9])?)$"


def parse_sender_id(text: str) -> str:
    """Check the `from` of a message. A space at an end is a mistake, and would be shown."""
    if not re.fullmatch(SENDER_ID_PATTERN, text):
        raise ValueError(
            "must be 1 to 15 digits, or 1 to 11 letters (A to Z), digits and spaces, "
            "no space at either end"
        )
    return text


def _check_key(key: SecretStr | None) -> SecretStr | None:
    """Refuse what is no key but the item of one in `DLR_API_KEYS`."""
    text = key.get_secret_value() if key is not None else ""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be a key, in printable ASCII without blanks")
    roles = "|".join(role.name for role in Role)
    if re.match(rf"(sha256=|[^:]+:({roles}):)", text, re.IGNORECASE):
        raise ValueError("must be the key alone, as its user has it: no name, role or sha256=")
    return key


def _optional_address(text: str | None) -> str | None:
    return text and _provider_address(text)


def _sender_id_or_none(text: str | None) -> str | None:
    return text and parse_sender_id(text)


def _no_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("must be a path")
    return path


def _root_path(text: str | None) -> str | None:
    prefix = (text or "").rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", prefix):
        raise ValueError("must be a path, as in /sms")
    return prefix or None


class Settings(BaseSettings):
    """Environment variables with the prefix `DLR_`, or `.env`, or files in a secrets directory."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        # Compose passes an unset variable on as an empty string.
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    database_url: Annotated[URL | None, NoDecode, BeforeValidator(_parse_database_url)] = Field(
        default=None,
        description="The database: `sqlite:///FILE` or `postgresql+psycopg://…` (a bare "
        "`postgresql://` or `postgres://` is understood). Default: `dlr.db` in `DLR_DATA_DIR`.",
    )
    host: str = Field(default="127.0.0.1", description="Address that `serve` listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port that `serve` listens on.")
    data_dir: Annotated[Path, AfterValidator(_no_nul)] = Field(
        default=Path("var"),
        description="Folder of the embedded database, the first-run secrets and the spool.",
    )
    callback_tokens: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_list_of(parse_token))
    ] = Field(
        default=(),
        description="Secret path tokens of the callback address, comma-separated: several at "
        "once, so that one can be rotated. `paasoo-dlr token new` makes one.",
    )
    callback_allowed_networks: Annotated[
        tuple[Network, ...], NoDecode, BeforeValidator(_list_of(_parse_network))
    ] = Field(
        default=(),
        description="CIDRs that may call back, comma-separated. Default: any. With networks and "
        "no token, the path is `/callback/paasoo`.",
    )
    trusted_proxies: Annotated[
        tuple[Network, ...], NoDecode, BeforeValidator(_list_of(_parse_network))
    ] = Field(
        default=(),
        description="CIDRs whose `X-Forwarded-For` is believed, read from the right, "
        "comma-separated. Default: none.",
    )
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_list_of(parse_api_key))] = (
        Field(
            default=(),
            description="Keys of the status API as `name:role:key`, comma-separated; `key` is the "
            "plain key or `sha256=<hex>` of it; roles `read`, `send`, `admin`, each containing the "
            "ones before. `paasoo-dlr key new` makes one.",
        )
    )
    spool: bool | None = Field(
        default=None,
        description="`on` or `off`: keep reports on local disk while the database is away. "
        "Default: `on` for a server database; the embedded one has no use for it.",
    )
    spool_max_bytes: int = Field(
        default=1024**3,
        ge=1024**2,
        description="Largest size of the spool's file, at least 1 MiB; past it, 503. A report "
        "takes its raw query and about 50 bytes.",
    )
    queue_limit: int = Field(
        default=10_000,
        ge=1,
        description="Reports that may wait for their commit, at least 1; past it, 503.",
    )
    quarantine_max_rows: int = Field(
        default=10_000,
        ge=1,
        description="Refused callbacks to keep (up to 8 KiB each); the oldest go first.",
    )
    report_timeout_hours: int = Field(
        default=72,
        ge=0,
        le=100_000,
        description="Hours after which a sent message without a final report becomes `expired`; a "
        "late report still takes over. 0 never gives up.",
    )
    retention_days: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Days after its last report when a final message is purged, with its history; "
        "refused callbacks go at the same age. 0 keeps all.",
    )
    metrics_public: bool = Field(
        default=False, description="`on` opens `/metrics` to callers without a key."
    )
    send_timeout_seconds: float = Field(
        default=30,
        ge=1,
        le=300,
        description="Time after which a client is dropped that leaves its answer unread, a stream "
        "for example. Seconds, from 1 to 300.",
    )
    keep_alive_seconds: float = Field(
        default=75,
        gt=0,
        le=3600,
        description="Time for which an idle connection is kept open. It should be longer than the "
        "proxy's in front, so that the proxy closes it first. Seconds, at most 3600.",
    )
    console: bool = Field(
        default=True,
        description="`on` or `off`: the pages for people, at `/`. They are for those who sign in "
        "with an API key, and show each what the key may see.",
    )
    root_path: Annotated[str | None, AfterValidator(_root_path)] = Field(
        default=None,
        description="The path prefix under which a proxy shows the service, and which the proxy "
        "strips: `/sms`, for example.",
    )
    shortcuts: bool = Field(
        default=True,
        description="`on` or `off`: answer callbacks and lookups by id before the router, at a "
        "fraction of the cost. `off` is for comparing the two ways.",
    )
    drain_seconds: float = Field(
        default=1,
        ge=0,
        le=5,
        description="Time after SIGTERM or SIGHUP in which new connections are still taken while "
        "`/readyz` already fails, so that a load balancer moves on before the port closes. "
        "Seconds, at most 5.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The lowest level that is logged: `debug`, `info`, `warning` or `error`.",
    )

    paasoo_url: Annotated[str, AfterValidator(_provider_address)] = Field(
        default="https://api.paasoo.com/json",
        description="PaaSoo's send API. Plain `http` sends the account and the texts over the "
        "network in the clear; `serve` warns about it.",
    )
    paasoo_key: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="The account's key at PaaSoo. Without key and secret, nothing is sent: "
        "`POST /v1/messages` answers 503.",
    )
    paasoo_secret: SecretStr | None = Field(
        default=None,
        min_length=1,
        validate_default=True,
        description="The account's secret.",
    )
    paasoo_from: Annotated[str | None, AfterValidator(_sender_id_or_none)] = Field(
        default=None,
        description="The sender id (`from`) of messages that are sent without one of their own: 1 "
        "to 15 digits, or 1 to 11 letters, digits and spaces. Default: they are sent without.",
    )
    paasoo_report_url: Annotated[str | None, AfterValidator(_optional_address)] = Field(
        default=None,
        description="Where PaaSoo is asked for the reports of a message that never came: "
        "`https://api.paasoo.com/dlr`. Needs key and secret. Default: nothing is asked.",
    )
    pull_after_minutes: float = Field(
        default=30,
        gt=0,
        le=100_000,
        description="Minutes after which a sent message without a final report is asked about; "
        "then again after twice as long each time, and a last time before it expires.",
    )
    pulls_a_second: float = Field(
        default=10,
        gt=0,
        le=1000,
        description="How many questions a second at most, all replicas together.",
    )
    paasoo_balance_url: Annotated[str | None, AfterValidator(_optional_address)] = Field(
        default=None,
        description="Where the account's balance is asked for, every 5 minutes: "
        "`https://api.paasoo.com/balance`. Needs key and secret. Default: it isn't asked for.",
    )

    check_key: Annotated[SecretStr | None, AfterValidator(_check_key)] = Field(
        default=None,
        description="The API key with which `paasoo-dlr check` looks its test report up; role "
        "`read` is enough. Default: it isn't looked up.",
    )

    webhook_allowed_networks: Annotated[
        tuple[Network, ...], NoDecode, BeforeValidator(_list_of(_parse_network))
    ] = Field(
        default=(),
        description="CIDRs that changes may be pushed to, comma-separated: what the name of an "
        "address resolves to is checked for each connection. Default: any.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - each source knows it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        nearest_first = (init_settings, env_settings, dotenv_settings, file_secret_settings)
        return tuple(map(variables.Trimmed, nearest_first))

    @field_validator("*", mode="before")
    @classmethod
    def _unquoted(cls, value: Any) -> Any:
        return variables.unquoted(value)

    @field_validator("api_keys")
    @classmethod
    def _each_once(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        user_of: dict[bytes, tuple[str, Role]] = {}
        for key in keys:
            known = user_of.setdefault(key.digest, (key.name, key.role))
            if known != (key.name, key.role):
                raise ValueError(f"{known[0]} and {key.name} have the same key")
        return keys

    @field_validator("paasoo_secret")
    @classmethod
    def _both_or_none(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # A wrong key, which has its own error, is not in the data.
        if (secret is None) != (info.data.get("paasoo_key", secret) is None):
            raise ValueError(f"must be set if {PREFIX}PAASOO_KEY is, and only then")
        return secret

    @field_validator("paasoo_report_url", "paasoo_balance_url")
    @classmethod
    def _with_an_account(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and info.data.get("paasoo_key", url) is None:
            raise ValueError(f"needs an account: {PREFIX}PAASOO_KEY and {PREFIX}PAASOO_SECRET")
        return url

    @property
    def database(self) -> URL:
        """The database's URL, the default filled in."""
        if self.database_url is not None:
            return self.database_url
        return URL.create("sqlite", database=str(self.data_dir / "dlr.db"))

    @property
    def addresses_in_the_clear(self) -> list[str]:
        """The names of the settings whose addresses get the account over plain `http`."""
        if self.paasoo_key is None:
            return []
        names = ("paasoo_url", "paasoo_report_url", "paasoo_balance_url")
        schemes = {name: urlsplit(getattr(self, name) or "").scheme for name in names}
        return [f"{PREFIX}{name.upper()}" for name in names if schemes[name] == "http"]

    @property
    def has_spool(self) -> bool:
        return not self.is_embedded and self.spool is not False

    @property
    def database_setting(self) -> str:
        """The name of the setting that gives the database."""
        return "DLR_DATA_DIR" if self.database_url is None else "DLR_DATABASE_URL"

    @property
    def database_shown(self) -> str:
        """The database's URL without its password, for the log."""
        return database_url.shown(self.database)

    @property
    def is_embedded(self) -> bool:
        return self.database.get_backend_name() == "sqlite"


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` win over all. Raises `SettingsError`."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(_env_file=_env_file(), _secrets_dir=_secrets_dir(), **given)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise SettingsError("; ".join(_explain(problem, given) for problem in problems)) from None
    except (OSError, UnicodeDecodeError, UnreadableSourceError) as error:
        raise SettingsError(f".env or {PREFIX}SECRETS_DIR can't be read: {error}") from None


def has_unreadable_env_file() -> bool:
    """True if the working directory has a `.env`, or may have one, that this user can't read."""
    try:
        ENV_FILE.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(ENV_FILE, os.R_OK)


def _env_file() -> Path | None:
    # It may be for others: Compose's, or that of the user whose folder this is.
    return None if has_unreadable_env_file() else ENV_FILE


def _secrets_dir() -> str | None:
    given = os.environ.get(f"{PREFIX}SECRETS_DIR", "").strip()
    if not given:
        return DEFAULT_SECRETS_DIR if Path(DEFAULT_SECRETS_DIR).is_dir() else None
    if not Path(given).is_dir():
        raise SettingsError(f"{PREFIX}SECRETS_DIR: {given} is not a folder")
    return given


def unknown_variables() -> dict[str, str | None]:
    """Variables with the settings' prefix that no setting has, each with the nearest setting."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}SECRETS_DIR"}
    # A pipe gives its content only once.
    file = _env_file()
    is_there = file is not None and file.is_file()
    in_files = set(DotEnvSettingsSource(Settings, file).env_vars) if is_there else set()
    if folder := _secrets_dir():
        in_files |= {file.name for file in Path(folder).iterdir()}
    return variables.unknown(known, in_files)


def _explain(problem: ErrorDetails, options: Collection[str]) -> str:
    name = str(problem["loc"][0])
    option = f"--{name}, " if name in options else ""
    return f"{option}{PREFIX}{name.upper()}: {_in_plain_words(name, problem)}"


def _in_plain_words(name: str, problem: ErrorDetails) -> str:
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    field = Settings.model_fields[name]
    kinds = get_args(field.annotation) or (field.annotation,)
    if bool in kinds:
        return "must be `on` or `off`"
    if int in kinds:
        return f"must be a whole number{_bounds(field.metadata)}"
    if float in kinds:
        return f"must be a number{_bounds(field.metadata)}"
    if problem["type"] == "literal_error":
        return f"must be one of {', '.join(kinds)}"
    return problem["msg"]


def _bounds(constraints: list[Any]) -> str:
    bound = {
        kind: getattr(constraint, kind)
        for constraint in constraints
        for kind in ("gt", "ge", "le")
        if hasattr(constraint, kind)
    }
    if "gt" in bound:
        return f" above {bound['gt']}, at most {bound['le']}"
    return f" from {bound['ge']} to {bound['le']}" if "le" in bound else f" from {bound['ge']} on"
