"""The ``meshwright`` command: a table of sub-commands whose modules are imported when they are called.

Nothing but typer and the standard library is imported here, so that ``meshwright --help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
import typer.core
import typer.main

#: command -> one line of help; the module ``meshwright.cli.<command>`` holds a function of the same name.
COMMANDS: dict[str, str] = {
    "plan": "Rank every way to train a model on a cluster.",
    "estimate": "Predict time and memory of one configuration.",
    "explain": "Say why a plan stands where it stands, or why another does not.",
    "export": "Write the launch files of a plan.",
    "place": "Put a plan's ranks on the hosts whose links suit them.",
    "check": "Predict a Megatron-LM launch script and name better neighbours.",
    "compare": "Put two plans side by side, part by part.",
    "timeline": "Simulate the pipeline of a plan pass by pass and draw it.",
    "stages": "Cut a profiled model into pipeline stages.",
    "backtest": "Predict published runs and score the predictions.",
    "calibrate": "Fit the coefficients of framework releases on measured runs.",
    "models": "List the models that ship, or describe one.",
    "hardware": "List the GPUs and clusters that ship, or describe one.",
}

EXIT_INTERRUPTED = 130
EXIT_USAGE = 2
EXIT_BUG = 1

# typer 0.2x carries its own copy of click; its public BadParameter leads to the base classes of either.
UsageError: Any = typer.BadParameter.__mro__[1]
ClickException: Any = UsageError.__mro__[1]


def load_command(name: str) -> Any:
    """Import the module of a sub-command and build its click command."""
    module = importlib.import_module(f".{name}", __package__)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name)(getattr(module, name))
    command = typer.main.get_command(app)
    command.name = name
    return command


class LazyGroup(typer.core.TyperGroup):
    """Knows its commands by name and imports one only when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one command; ``None`` if there is none of that name."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the command table without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that was called, or name the nearest in one sentence."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from ..hardware_profiles.errors import did_you_mean

            hint = did_you_mean(args[0], COMMANDS) or f" The commands are {', '.join(COMMANDS)}."
            raise UsageError(f"There is no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)


def version() -> str:
    """Return the installed version."""
    from importlib.metadata import version as installed  # 20 ms that --help does not need

    return installed("meshwright")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"meshwright {version()}")
        raise typer.Exit()


def _root(
    show_version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", callback=_print_version, is_eager=True
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of a bug (or set MESHWRIGHT_DEBUG=1)."),
) -> None:
    """Plan how a large model is trained: price every layout, rank them with reasons, write the launch files."""


def build() -> Any:
    """Return the root command."""
    app = typer.Typer(
        name="meshwright",
        cls=LazyGroup,
        callback=_root,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a user's mistake is one sentence on stderr."""
    from ..hardware_profiles.errors import MeshwrightError

    try:
        result = build().main(args=list(arguments) or ["--help"], prog_name="meshwright", standalone_mode=False)
        if result == EXIT_INTERRUPTED:  # typer turns the interrupt into an exit
            _complain("interrupted")
        return result if isinstance(result, int) else 0
    except MeshwrightError as error:
        _complain(str(error))
        return error.exit_code
    except ClickException as error:
        return _usage_problem(error)
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit):  # typer turns the former into the latter; nothing else here exits
        return _reader_gone()
    except Exception as error:  # anything else is our bug, not the user's
        return _bug(error, arguments)


def _reader_gone() -> int:
    """The reader of our output (head, less) has left: no fault, but nothing more can be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _usage_problem(error: Any) -> int:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
    _complain(f"{message}{hint}")
    return EXIT_USAGE


def _bug(error: Exception, arguments: Sequence[str]) -> int:
    if "--debug" in arguments or os.environ.get("MESHWRIGHT_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    name = type(error).__name__
    _complain(
        f"this is a bug in meshwright {version()}, please report it with the command that you ran "
        f"(MESHWRIGHT_DEBUG=1 shows where): {name}: {' '.join(str(error).split())}"
    )
    return EXIT_BUG


def _complain(sentence: str) -> None:
    print(f"meshwright: {sentence}", file=sys.stderr)


def main() -> None:
    """Entry point of the console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_gone()
    sys.exit(code)
