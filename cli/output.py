"""What leaves a command: JSON on stdout, files written whole or not at all, a progress bar on stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from ..hardware_profiles.errors import InvalidProblemError

WIDTH = 100


def print_json(value: Any) -> None:
    """Print a value as JSON; floats carry nine significant digits as in plan.json."""
    sys.stdout.write(json.dumps(_rounded(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def note(sentence: str) -> None:
    """Print a line that is no part of the result, on stderr."""
    print(sentence, file=sys.stderr)


def check_writable(path: Path, *, force: bool, flag: str) -> None:
    """Raise before the work if the result could not be written afterwards."""
    if path.is_dir():
        raise InvalidProblemError(f"{flag}: {path} is a folder; name a file.")
    if path.exists() and not force:
        raise InvalidProblemError(f"{flag}: {path} exists; give another name, or --force to overwrite it.")
    if not path.parent.is_dir():
        raise InvalidProblemError(f"{flag}: the folder {path.parent} does not exist; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise InvalidProblemError(f"{flag}: the folder {path.parent} is not writable; choose another.")


def write_text(path: Path, text: str, *, force: bool, flag: str) -> None:
    """Write a file whole or not at all (a temporary file beside it, then a rename)."""
    check_writable(path, force=force, flag=flag)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def progress(label: str, *, after_s: float = 1.0) -> Iterator[Callable[[int, int], None]]:
    """Yield ``report(done, total)``; a bar appears on stderr if a person is watching and it takes ``after_s``."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    latest: dict[str, int | None] = {"completed": 0, "total": None}
    bars: list[Callable[[], None]] = []
    stops: list[Callable[[], None]] = []

    def start() -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        task = bar.add_task(label, total=None)
        bars.append(lambda: bar.update(task, **latest))  # type: ignore[arg-type]
        stops.append(bar.stop)
        bar.start()
        bars[0]()

    def report(done: int, total: int) -> None:
        latest.update(completed=done, total=total)
        for update in bars:
            update()

    timer = Timer(after_s, start)
    timer.daemon = True
    timer.start()
    try:
        yield report
    finally:
        timer.cancel()
        timer.join()
        for stop in stops:
            stop()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return value
