"""The program's entry: Ctrl-C ends it without a traceback, while it is still loading too."""

import signal
import sys


def main() -> None:
    try:
        from app import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
