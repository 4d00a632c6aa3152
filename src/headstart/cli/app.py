"""The program: runs a command, shows its page, and turns every error into one sentence and an exit code.

========  ==========================================================================
exit code when
========  ==========================================================================
0         the command did what was asked
1         a HeadstartError: the data, an option's value, a file or a package is at fault
2         the command line itself is wrong (unknown option, missing argument)
130       Ctrl-C
141       whoever read our output went away (``headstart … | head``)
========  ==========================================================================
"""

from __future__ import annotations

import ctypes
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from rich.text import Text

from headstart._base.extras import installed_version
from headstart._base.printing import clean
from headstart._base.processes import is_main
from headstart._base.progress import listening
from headstart.cli.listener import ConsoleListener
from headstart.cli.output import Page, console, show, show_json
from headstart.errors import HeadstartError, HeadstartWarning

# ---- Standard output belongs to the answer: whatever a library prints meanwhile goes to standard error. ----


@contextmanager
def printing_aside() -> Iterator[None]:
    """Inside the block, Python's ``print`` and the ``printf`` of C libraries write to standard error."""
    real, descriptor = sys.stdout, _descriptor(sys.stdout)
    flush()
    stdout_copy = None if descriptor is None else os.dup(descriptor)
    if descriptor is not None and (error := _descriptor(sys.stderr)) is not None:
        os.dup2(error, descriptor)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        _flush_c()
        sys.stdout = real
        if stdout_copy is not None and descriptor is not None:
            os.dup2(stdout_copy, descriptor)
            os.close(stdout_copy)


def close_stdout() -> None:
    """From here on nothing reaches standard output: threads and exit handlers may still print."""
    flush()
    out, error = _descriptor(sys.stdout), _descriptor(sys.stderr)
    if out is not None and error is not None:
        os.dup2(error, out)


def drop_stdout() -> None:
    """The reader of standard output has gone away (``| head``): what is left is written to nowhere."""
    with suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def lenient() -> None:
    """A character that the terminal cannot show becomes a question mark, never a crash."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def flush() -> None:
    """Write out what Python still holds."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):  # a stream in memory, or none at all (pythonw)
        return None


def _flush_c() -> None:
    with suppress(Exception):
        ctypes.CDLL(None).fflush(None)


INTERRUPTED, READER_GONE = 130, 141
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
# Read by the libraries when they are imported. What a user has set stays as it is.
_SWITCHES = {
    "DO_NOT_TRACK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OPENVINO_TELEMETRY_ENABLE": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}

app = typer.Typer(
    name="headstart",
    help="Transfer learning by feature extraction: compute features once, solve a head, fine-tune when it pays, "
    "prove that it helped.",
    epilog="Start here: headstart demo",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ORDER = (
    "demo",
    "doctor",
    "sources",
    "layers",
    "extract",
    "rank",
    "fit",
    "evaluate",
    "predict",
    "export",
    "forget",
    "prove",
    "report",
    "pretrain",
)
_COMMON = (
    ("json", Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON document instead of text.")]),
    ("quiet", Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="No progress and no notes.")]),
)


def command(name: str, panel: str, *, listed: bool = False) -> Callable[[Callable[..., Page]], Callable[..., Page]]:
    """Enrol a function as a command; it gets ``--json`` and ``--quiet`` besides its own parameters.

    A parameter whose type is a dataclass of options stands for all of them: several commands ask for the same.
    ``listed``: its page lists the items that could not be read, so notes do not.
    """

    def enrol(function: Callable[..., Page]) -> Callable[..., Page]:
        parameters = _typed(
            inspect.signature(function).parameters.values(), get_type_hints(function, include_extras=True)
        )
        bundles: dict[str, Any] = {
            parameter.name: parameter.annotation for parameter in parameters if is_dataclass(parameter.annotation)
        }

        @wraps(function)
        def work(*args: Any, json: bool = False, quiet: bool = False, **options: Any) -> None:
            for bundle, kind in bundles.items():
                options[bundle] = kind(**{option.name: options.pop(option.name) for option in fields(kind)})
            with printing_aside():
                page = _run_with_listener(function, args, options, quiet=quiet or not is_main(), listed=listed)
            if not is_main():
                return
            if json:
                show_json(page.document)
            else:
                show(page)

        shown = [
            parameter
            for parameter in parameters
            for parameter in (_expand_dataclass(parameter.annotation) if parameter.name in bundles else [parameter])
        ]
        shown += [inspect.Parameter(n, _KEYWORD, default=False, annotation=kind) for n, kind in _COMMON]
        del work.__wrapped__  # typer shall see our parameters, too
        work.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        work.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        app.command(name, rich_help_panel=panel)(work)
        app.registered_commands.sort(key=lambda entry: _ORDER.index(entry.name or ""))
        return function

    return enrol


def _typed(parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]) -> list[inspect.Parameter]:
    return [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]


def _expand_dataclass(kind: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as keyword-only parameters."""
    parameters = [parameter.replace(kind=_KEYWORD) for parameter in inspect.signature(kind).parameters.values()]
    return _typed(parameters, get_type_hints(kind, include_extras=True))


def _run_with_listener(function: Callable[..., Page], args: Any, options: Any, *, quiet: bool, listed: bool) -> Page:
    """Call a command with its notes, bars and warnings going to standard error."""
    listener = ConsoleListener(console(sys.stderr), quiet=quiet, listed=listed)

    def warned(message: Warning | str, category: type[Warning], *_rest: Any, **_more: Any) -> None:
        # what other libraries warn of is for their developers, unless Python was told to show it
        if issubclass(category, HeadstartWarning) or sys.warnoptions:
            listener.warn(str(message))

    try:
        with warnings.catch_warnings(), listening(listener):
            warnings.showwarning = warned
            return function(*args, **options)
    finally:
        listener.close()


def _version(show: bool) -> None:
    if show:
        sys.stdout.write(f"headstart {installed_version('headstart') or 'not installed'}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def run(arguments: Sequence[str]) -> int:
    """Run the program; the exit code."""
    lenient()
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    as_json = "--json" in arguments
    try:
        code = typer.main.get_command(app).main(list(arguments), prog_name="headstart", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:
        drop_stdout()
        return READER_GONE
    except (KeyboardInterrupt, typer.Abort):
        message = "Stopped. Features computed so far are kept: the same command goes on from there."
        return _report_error("KeyboardInterrupt", message, INTERRUPTED, as_json=as_json)
    except HeadstartError as error:
        return _report_error(type(error).__name__, str(error), 1, as_json=as_json)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's, or click's own
            return _usage_error(error, as_json=as_json)
        return _unexpected_error(error, as_json=as_json)


def _usage_error(error: Any, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    hint = f" See: {context.command_path} --help" if context is not None else ""
    return _report_error("UsageError", f"{error.format_message()}{hint}", int(error.exit_code), as_json=as_json)


def _unexpected_error(error: Exception, *, as_json: bool) -> int:
    """An error that nobody foresaw: shown with the way to its traceback, and to us."""
    if os.environ.get("HEADSTART_TRACEBACK"):
        traceback.print_exception(error, file=sys.stderr)
    text = " ".join(str(error).split()) or "no message"
    advice = "This should not happen. HEADSTART_TRACEBACK=1 in the environment shows where; please report it."
    return _report_error(type(error).__name__, f"{type(error).__name__}: {text}\n{advice}", 1, as_json=as_json)


def _report_error(kind: str, message: str, code: int, *, as_json: bool) -> int:
    out = console(sys.stderr)
    for number, line in enumerate(message.splitlines() or [kind]):
        before = Text("Error " if code != INTERRUPTED else "", style="bold red") if number == 0 else Text("      ")
        out.print(before + Text(clean(line), style="red" if code != INTERRUPTED else "yellow"), soft_wrap=True)
    if as_json and is_main():
        show_json({"error": {"type": kind, "message": message}})
    return code


def main() -> None:
    """The program ``headstart``, and ``python -m headstart``."""
    code = run(sys.argv[1:])
    if "--json" in sys.argv:
        close_stdout()
    raise SystemExit(code)
