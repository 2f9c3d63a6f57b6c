"""A user's mistakes as one line and an exit status."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import click

from scipion_faml.disk import DiskError
from scipion_faml.execution import ClusterError
from scipion_faml.texts import one_line


def report_errors(command: click.Command, arguments: list[str]) -> int:
    """Run `command`; print a user's mistake as one line on stderr and return the exit status."""
    try:
        command.main(arguments, prog_name="scipion-faml", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        return _refused(_usage_message(error, command, arguments))
    except click.Abort as stop:
        by = str(stop.__cause__ or "") or "SIGINT"
        click.echo(f"stopped by {by}: the same command goes on with it", err=True)
        return 1
    except (ValueError, OSError, ClusterError) as error:
        if os.environ.get("FAML_DEBUG"):
            raise
        _refused(str(error))
        return 1 if isinstance(error, (ClusterError, DiskError)) else 2
    except MemoryError as error:
        return _refused(f"not enough memory ({error}): use smaller boxes, bin the tomogram, or use "
                        "a machine with more memory")
    return 0


def _refused(message: str) -> int:
    """Say what is wrong in one line; return the exit status."""
    message = one_line(message)
    click.echo(f"error: {message}", err=True)
    _note_error(message)
    return 2


def _usage_message(
    error: click.ClickException, command: click.Command, arguments: list[str]
) -> str:
    """A mistake in the command, and where its options are explained."""
    message = error.format_message().rstrip(".")
    if not isinstance(error, click.UsageError):
        return message
    if error.ctx is not None:
        return f"{message}: see {error.ctx.command_path} --help"
    # click forgets where an option lacks its value.
    verbs: list[str] = []
    if isinstance(command, click.Group):
        verbs = command.list_commands(click.Context(command))
    words = ["scipion-faml", *(word for word in arguments[:1] if word in verbs)]
    return f"{message}: see {' '.join(words)} --help"


def _note_error(message: str) -> None:
    """Leave the message in the file that a calling program named in FAML_ERROR_FILE."""
    path = os.environ.get("FAML_ERROR_FILE")
    if path:
        with suppress(OSError):  # a full disk may be what it says
            Path(path).write_text(message)
