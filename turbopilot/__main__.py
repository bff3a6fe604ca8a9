"""Entry point of the `turbopilot` command and of `python -m turbopilot`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C never shows a traceback, however early it comes."""
    # Under nohup, and in a shell's background job, the signal is ignored and stays so.
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:  # while modules load, the signal itself ends the process
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from turbopilot import cli

    try:
        if is_default:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:  # outside a verb: while arguments are parsed or output is flushed
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    finally:
        if is_default:  # while libraries clean up at the exit
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
