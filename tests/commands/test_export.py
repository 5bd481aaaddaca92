"""`paasoo-dlr export`: all deliveries with the API's fields, as CSV and as JSON lines."""

import csv
import io
import json
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from app.store.tables import deliveries
from tests.commands.conftest import Stored, many
from tests.process import PROGRAM, run, serving
from tests.service import ADMIN_KEY, TOKEN, a_report
from tests.times import YESTERDAY, written

GIVEN = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"boss:admin:{ADMIN_KEY}"}


@pytest.fixture
def filled(stored: Stored) -> Stored:
    stored.record(a_report(messageid="b", statuscode='a, "quoted"\nlabel'), at=YESTERDAY + 2)
    stored.record(a_report(messageid="a", status=404, statuscode="Unroutable"), at=YESTERDAY + 1)
    stored.register("sent", "6588888888", at=YESTERDAY)
    return stored


def ids(stdout: str) -> list[str]:
    return [json.loads(line)["messageid"] for line in stdout.splitlines()]


def test_both_formats_say_what_the_api_says_beside_a_running_service(filled: Stored) -> None:
    filled.database.close()
    with serving(**filled.environment, **GIVEN) as service:
        lines = run("export", "--format", "jsonl", **filled.environment)
        table = run("export", "--format", "csv", **filled.environment)
        answer = service.http.get(
            "/v1/deliveries", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
        ).json()["items"]

    assert lines.code == table.code == 0, lines.stderr
    assert [json.loads(line) for line in lines.stdout.splitlines()] == answer[::-1]
    rows = list(csv.DictReader(io.StringIO(table.stdout, newline="")))
    assert list(rows[0]) == list(answer[0])
    assert rows == [
        {
            name: "" if value is None else value if isinstance(value, str) else json.dumps(value)
            for name, value in delivery.items()
        }
        for delivery in answer[::-1]
    ]


def test_filters_are_those_of_the_api(filled: Stored) -> None:
    def exported(*options: str) -> list[str]:
        ended = filled.run("export", "--format", "jsonl", *options)
        assert ended.code == 0, ended.stderr
        return ids(ended.stdout)

    assert exported() == ["sent", "a", "b"]
    assert exported("--state", "delivered") == ["b"]
    assert exported("--state", "pending") == ["sent"]
    assert exported("--since", written(YESTERDAY + 2)) == ["b"]
    assert exported("--until", written(YESTERDAY + 2)) == ["a"]
    assert exported("--since", written(YESTERDAY, hours_east=8)) == ["a", "b"]


def test_a_file_is_for_its_owner_alone(filled: Stored, tmp_path: Path) -> None:
    file = tmp_path / "deliveries.csv"

    ended = filled.run("export", "--format", "csv", "--output", str(file))

    assert (ended.code, ended.stdout) == (0, "")
    assert file.read_bytes().count(b"\r\n") == 4  # RFC 4180
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--format", "xml"),
        ("--format", "csv", "--since", "yesterday"),
        ("--format", "csv", "--until", "2000-01-31T08:00:00"),
        ("--format", "csv", "--state", "lost"),
        ("--format", "jsonl", "--spreadsheet-safe"),
        ("--format", "csv", "--output", "/proc/nowhere/x.csv"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_refused(stored: Stored, options: tuple[str, ...]) -> None:
    ended = stored.run("export", *options)

    assert ended.code == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_a_reader_that_has_enough_ends_it_quietly(stored: Stored) -> None:
    stored.record(*many(5000))
    command = f"{PROGRAM} export --format jsonl | head -1"

    ended = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": "/usr/bin:/bin", **stored.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ids(ended.stdout) == ["m-00000"]
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def test_memory_does_not_grow_with_what_is_exported(stored: Stored) -> None:
    def peak_mib() -> float:
        with subprocess.Popen(
            [PROGRAM, "export", "--format", "jsonl"],
            env={"PATH": "/usr/bin:/bin", **stored.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout
            watched, peak, lines = psutil.Process(process.pid), 0, 0
            for lines, _ in enumerate(process.stdout, start=1):
                if lines % 500 == 0:
                    peak = max(peak, watched.memory_info().rss)
            assert lines == stored.count(deliveries)
        return peak / 1024**2

    stored.record(a_report())
    stored.multiply(1_000)
    few = peak_mib()
    stored.multiply(30)
    many_more = peak_mib()

    assert stored.count(deliveries) > 30_000
    assert many_more < few + 15


def test_an_existing_file_is_overwritten_only_by_force(filled: Stored, tmp_path: Path) -> None:
    file = tmp_path / "kept.csv"
    file.write_text("precious")
    file.chmod(0o644)

    refused = filled.run("export", "--format", "csv", "--output", str(file))
    kept = file.read_text()
    forced = filled.run("export", "--format", "csv", "--output", str(file), "--force")

    assert refused.code == 2
    assert "--force" in refused.stderr.splitlines()[-1]
    assert kept == "precious"
    assert forced.code == 0
    assert "3/3" in forced.stderr
    assert forced.stderr.endswith("exported: 3 deliveries\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_no_regular_file_is_written_to_without_force(filled: Stored) -> None:
    to_output = filled.run("export", "--format", "jsonl", "--output", "/dev/stdout")
    to_nothing = filled.run("export", "--format", "jsonl", "--output", "/dev/null")

    assert (to_output.code, to_nothing.code) == (0, 0), to_output.stderr
    assert ids(to_output.stdout) == ["sent", "a", "b"]
    assert to_nothing.stdout == ""


def test_an_empty_option_is_as_none(filled: Stored) -> None:
    empty = [word for name in ("output", "state", "since", "until") for word in (f"--{name}", "")]

    ended = filled.run("export", "--format", "jsonl", *empty)

    assert ended.code == 0, ended.stderr
    assert ids(ended.stdout) == ["sent", "a", "b"]


@pytest.mark.parametrize("to_file", [True, False], ids=["file", "standard output"])
def test_an_export_is_utf8_in_every_locale(
    stored_in_file: Stored, tmp_path: Path, to_file: bool
) -> None:
    stored_in_file.record(a_report(statuscode="\u5df2\u9001\u8fbe \U0001f4e8"))
    output = ("--output", str(tmp_path / "it")) if to_file else ()
    ended = subprocess.run(
        [PROGRAM, "export", "--format", "jsonl", *output],
        env={**stored_in_file.environment, "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "gbk"},
        capture_output=True,
        check=True,
    )

    written = (tmp_path / "it").read_bytes() if to_file else ended.stdout
    assert json.loads(written.decode())["statuscode"] == "\u5df2\u9001\u8fbe \U0001f4e8"


def test_cells_that_a_spreadsheet_would_run_are_disarmed_if_asked(stored: Stored) -> None:
    for number, text in enumerate(("=1+1", "+1", "-1", "@x", "plain")):
        stored.record(a_report(messageid=f"m-{number}", statuscode=text))

    exact = stored.run("export", "--format", "csv")
    safe = stored.run("export", "--format", "csv", "--spreadsheet-safe")

    def labels(text: str) -> set[str]:
        return {row["statuscode"] for row in csv.DictReader(io.StringIO(text, newline=""))}

    assert labels(exact.stdout) == {"=1+1", "+1", "-1", "@x", "plain"}
    assert labels(safe.stdout) == {"'=1+1", "'+1", "'-1", "'@x", "plain"}
