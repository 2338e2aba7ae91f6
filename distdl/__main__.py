"""The command line: `distdl`, or `python -m distdl`.

A Ctrl-C that comes before there is anything to save ends it quietly, also while it imports its own modules: nothing is
imported outside of the `try`. Libraries that are interrupted in the middle of an import may raise anything.
"""

import sys


def main() -> int:
    interrupts: list[int] = []
    try:
        import signal

        def interrupt(number: int, frame: object) -> None:
            interrupts.append(number)
            raise KeyboardInterrupt

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as by nohup
            signal.signal(signal.SIGINT, interrupt)
        from distdl.cli import main as command_line

        return command_line()
    except BaseException as error:
        if not interrupts and not isinstance(error, KeyboardInterrupt):
            raise
        from distdl.errors import EXIT_INTERRUPTED

        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
