"""One progress display that reads well in Jupyter, in a terminal, in a log and in an executed notebook."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

EXECUTED_ENV = "SS3D_EXECUTED"  # set by run_notebook: nobody watches, so print lines instead of a live bar
FIRST_LINE_S = 5.0  # short loops stay silent until their closing line
LIVE_INTERVAL_S = 0.2


def progress(iterable: Iterable[Item], total: int | None = None, label: str = "") -> Iterator[Item]:
    """Yields the items, and shows how many are done, the rate and the time left.

    In Jupyter and in a terminal one line is updated in place. In a log, a pipe or an executed copy, whole
    lines are printed at growing intervals (5 s, then each at 1.5 times the time before, at most 60 s apart),
    so that the saved notebook tells how the loop went and ends with "N/N" rather than with a frozen bar.

    Args:
        iterable: what to loop over.
        total: number of items; len(iterable) where it has one.
        label: what is being done, e.g. "scoring shots".
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    show, interval_s = _display()
    start_s = last_s = time.monotonic()
    done = 0
    finished = False
    try:
        for item in iterable:
            yield item
            done += 1
            now_s = time.monotonic()
            if done != total and now_s - last_s >= (interval_s or _line_interval_s(last_s - start_s)):
                show(_line(label, done, total, now_s - start_s), False)
                last_s = now_s
        finished = True
    finally:
        text = _line(label, done, total if not finished else done, time.monotonic() - start_s)
        show(text if finished else f"{text}, stopped", True)


def silent(iterable: Iterable[Item], total: int | None = None) -> Iterable[Item]:
    """The items, and nothing shown: what takes a `watch` goes without."""
    return iterable


def is_live() -> bool:
    """Whether a person watches a notebook: a Jupyter kernel that no runner executes."""
    if os.environ.get(EXECUTED_ENV) or "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


def _line(label: str, done: int, total: int | None, seconds: float) -> str:
    count = f"{done}/{total}" if total is not None else f"{done}"
    text = f"{label + ': ' if label else ''}{count} in {duration(seconds)}"
    if done and seconds > 0:
        text += f", {_rate(done / seconds)}"
        if total is not None and total > done:
            text += f", {duration(seconds / done * (total - done))} left"
    return text


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _line_interval_s(elapsed_s: float) -> float:
    return min(max(FIRST_LINE_S, 0.5 * elapsed_s), 60.0)


def _display():
    """(show(text, last), seconds between updates or None for growing intervals) for where we run."""
    if is_live():
        return _jupyter_show(), LIVE_INTERVAL_S
    if sys.stderr.isatty() and not os.environ.get(EXECUTED_ENV):
        return _show_in_place, LIVE_INTERVAL_S
    return _show_line, None


def _show_line(text: str, last: bool) -> None:
    print(text, flush=True)


def _show_in_place(text: str, last: bool) -> None:
    # \033[K clears what a longer line left behind
    print(f"\r{text}\033[K", end="\n" if last else "", file=sys.stderr, flush=True)


def _jupyter_show():
    from IPython.display import display

    handle = display({"text/plain": "..."}, raw=True, display_id=True)
    return lambda text, last: handle.update({"text/plain": text}, raw=True)
