"""Command-line options that the benchmarks share."""

import argparse


def parser_of(program: str, does: str | None) -> argparse.ArgumentParser:
    """A parser that shows defaults."""
    return argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=does,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def add_measuring(parser: argparse.ArgumentParser, seconds: int) -> None:
    """Add the options for rounds and seconds, and for writing to the page."""
    parser.add_argument("--no-write", action="store_true", help="only print the tables")
    parser.add_argument("--rounds", type=positive, default=3, help="of all figures, in turn")
    parser.add_argument(
        "--seconds", type=positive, default=seconds, help="of load, for each figure of a round"
    )


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
