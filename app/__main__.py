"""The program's entry: Ctrl-C ends it without a traceback, while it is still loading too."""

import signal
import sys


def main() -> None:
    # A shell has its background jobs ignore it.
    handles_it = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    if handles_it:
        # As SIGTERM does: Python's own exception is lost where it meets a destructor.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from app import cli

    try:
        if handles_it:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
