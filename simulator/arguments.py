"""The options of `paasoo-dlr simulate`, as its `--help` shows them."""

from pathlib import Path
from typing import Annotated, Final

import typer

from simulator.options import Fault, Kind, Pushed

MAX_WAIT_S: Final = 86400

Callback = Annotated[
    str | None,
    typer.Option(
        envvar="DLR_SIMULATOR_CALLBACK",
        show_envvar=True,
        help="Callback address that reports are sent to, with its token.",
    ),
]
Messages = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Messages to invent. Without it: none with --listen, else one after the other.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=MAX_WAIT_S * 365,
        help="Time to invent and take messages for, or to receive; reports that are due later are"
        " still sent.",
    ),
]
Rate = Annotated[float, typer.Option(min=0.001, max=100_000, help="Reports a second, at most.")]
Seed = Annotated[
    int | None,
    typer.Option(help="The same seed gives the same messages. Without it: a random one."),
]
Shares = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=WEIGHT",
        help="Weight of a behaviour among all; repeatable. The name `all` stands for every one.",
    ),
]
Delay = Annotated[
    float, typer.Option(min=0, max=MAX_WAIT_S, help="Longest delay of a report, in seconds.")
]
Late = Annotated[
    float, typer.Option(min=0, max=MAX_WAIT_S, help="The same for the behaviour `late`.")
]
Connections = Annotated[
    int, typer.Option(min=1, max=10_000, help="Connections to the callback address.")
]
Timeout = Annotated[
    float,
    typer.Option(min=0.001, max=MAX_WAIT_S, help="Longest wait for a report's answer, in seconds."),
]
Retries = Annotated[
    int,
    typer.Option(min=0, max=1000, help="Repeats of a report after 503 or no answer, at most."),
]
Listen = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Serve the send API, GET /json, /dlr and /balance, on this address.",
    ),
]
AccountKey = Annotated[
    str,
    typer.Option(
        envvar="DLR_SIMULATOR_ACCOUNT_KEY", show_envvar=True, help="The send API's `key`."
    ),
]
AccountSecret = Annotated[
    str,
    typer.Option(
        envvar="DLR_SIMULATOR_ACCOUNT_SECRET", show_envvar=True, help="The send API's `secret`."
    ),
]
AccountKind = Annotated[
    Kind,
    typer.Option(
        help="The kind of account: the guide's, or the public pages', which needs `from` and has"
        " the statuses 2 to 11."
    ),
]
Balance = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Recipients that the account pays for; then 403, of a public account 9. Without it:"
        " any.",
    ),
]
SendRate = Annotated[
    float | None,
    typer.Option(
        min=1, help="Sends a second that a public account may make; then 10. Without it: any."
    ),
]
AllowedNetwork = Annotated[
    str | None,
    typer.Option(
        metavar="CIDR",
        help="Network that may call the send API; others get 404, of a public account 5.",
    ),
]
SystemErrors = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Share of a public account's accepted sends that are answered 11, from 0 to 1.",
    ),
]
OddAnswers = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Share of the answers in an odd form: compressed, with numbers, a byte order mark,"
        " white space, or in GBK; from 0 to 1.",
    ),
]
OddPulls = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Share of the questions about a message (GET /dlr) that are answered oddly: no report"
        " yet, unknown id, HTML, HTTP 500, slowly, cut off; from 0 to 1.",
    ),
]
LoseAnswers = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Share of the accepted sends whose answer is lost, from 0 to 1."
    ),
]
AnswerDelay = Annotated[
    float,
    typer.Option(
        min=0, max=MAX_WAIT_S, help="Delay of the answer to an accepted send, in seconds."
    ),
]
Receive = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Take the service's pushes on this address, at any path, and send nothing.",
    ),
]
ReceiveSecrets = Annotated[
    list[str] | None,
    typer.Option(
        envvar="DLR_SIMULATOR_RECEIVE_SECRET",
        show_envvar=True,
        help="Secret that pushes are signed with (whsec_…), one for each address; repeatable, in"
        " the variable with spaces between.",
    ),
]
ReceiveShares = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SHARE",
        help=f"Share of the pushes, from 0 to 1, that are answered oddly: {', '.join(Fault)};"
        " repeatable, or with commas between.",
    ),
]
ReceiveAway = Annotated[
    str | None,
    typer.Option(
        metavar="FROM-TO",
        help="Refuse connections from one second after the start to another, as in 20-80.",
    ),
]
ReceiveEvents = Annotated[
    Pushed, typer.Option(help="The changes that the addresses are to be pushed.")
]
LedgerFile = Annotated[
    Path | None,
    typer.Option(help="File for the ledger: each message, report, push and answer."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the ledger.")]
Compare = Annotated[
    bool,
    typer.Option(
        "--check",
        help="At the end, compare the ledger with the API; exit code 1 if they differ. With"
        " neither --callback, --listen nor --receive: compare an earlier ledger.",
    ),
]
Api = Annotated[str | None, typer.Option(help="Address of the API, as http://127.0.0.1:8000.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="DLR_SIMULATOR_KEY",
        show_envvar=True,
        help="Key of the API; an admin's key compares the quarantine too.",
    ),
]
Settle = Annotated[
    float,
    typer.Option(
        min=0,
        max=MAX_WAIT_S,
        help="Seconds that differences have to go away, such as while a spool drains.",
    ),
]
