"""The baselines of the service. Each answers the callback, with more or less work behind it."""

import os
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from fastapi.responses import PlainTextResponse
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """ASGI and nothing else: the limit for anything that runs on uvicorn."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"content-length", b"2"), (b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"OK"})


only_answers = FastAPI()


@only_answers.get("/callback/paasoo/{token}", response_class=PlainTextResponse)
async def answer(token: str) -> str:  # noqa: ARG001 - it does nothing on purpose
    return "OK"


class Base(DeclarativeBase):
    pass


class NaiveReport(Base):
    __tablename__ = "naive_reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str]
    recipient: Mapped[str]
    status: Mapped[int]
    statuscode: Mapped[str | None]
    errcode: Mapped[str | None]
    network: Mapped[str | None]


class NaiveDelivery(Base):
    __tablename__ = "naive_deliveries"

    message_id: Mapped[str] = mapped_column(primary_key=True)
    recipient: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[int]
    statuscode: Mapped[str | None]
    errcode: Mapped[str | None]
    network: Mapped[str | None]


def naive() -> FastAPI:
    """The usual first version of a receiver: typed parameters, a session and a commit each."""
    engine = _naive_engine(os.environ["BENCH_DATABASE_URL"])
    insert: Any = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
    app = FastAPI()

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    @app.get("/callback/paasoo/{token}", response_class=PlainTextResponse)
    def receive(  # noqa: PLR0913, PLR0917 - FastAPI wants one for each
        token: str,  # noqa: ARG001 - not checked, in the baseline's favour
        messageid: Annotated[str, Query(max_length=128)],
        to: Annotated[str, Query(max_length=20)],
        status: Annotated[int, Query(ge=0)],
        session: Annotated[Session, Depends(session)],
        statuscode: str | None = None,
        errcode: str | None = None,
        network: str | None = None,
    ) -> str:
        fields = {
            "status": status,
            "statuscode": statuscode,
            "errcode": errcode,
            "network": network,
        }
        # An upsert: select-then-insert would fail on SQLite whenever two requests meet.
        statement = insert(NaiveDelivery).values(message_id=messageid, recipient=to, **fields)
        session.execute(
            statement.on_conflict_do_update(index_elements=["message_id", "recipient"], set_=fields)
        )
        session.add(NaiveReport(message_id=messageid, recipient=to, **fields))
        session.commit()
        return "OK"

    return app


def _naive_engine(url: str) -> Engine:
    engine = create_engine(url, pool_size=40)  # as many as FastAPI has threads for endpoints
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def be_durable(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA busy_timeout=30000")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

    Base.metadata.create_all(engine)
    return engine


def make_naive_tables(database: URL) -> None:
    engine = create_engine(database)
    Base.metadata.create_all(engine)
    engine.dispose()
