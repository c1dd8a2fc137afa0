"""What every command line of the project shares: numbers that make sense, Ctrl-C in one line, an exit status."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130  # the exit status of a program stopped by Ctrl-C


def whole(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `least` on."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}: give a whole number from {least} on")
        return value

    read.__name__ = "whole number"  # argparse names it where int() fails
    return read


def real(least: float, above: bool = False) -> Callable[[str], float]:
    """An argparse type: finite numbers from `least` on, or with `above` only those greater than it."""

    def read(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or value < least or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text}: give a finite number {'above' if above else 'from'} {least:g}{'' if above else ' on'}")
        return value

    read.__name__ = "number"
    return read


def finish(main: Callable[[], int]) -> NoReturn:
    """Ends the program with the status of `main`; Ctrl-C is one line and INTERRUPTED, not a traceback."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted: what was finished is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
