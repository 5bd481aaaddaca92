"""The program's entry: Ctrl-C ends it without a traceback, while it is still loading too."""

import signal
import sys


def main() -> None:
    # As SIGTERM does: Python's own exception is lost where it meets a destructor.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from app import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli.main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
