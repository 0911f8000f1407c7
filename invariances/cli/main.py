"""`invariances COMMAND ...`: the table of commands, and what becomes of their errors."""

from __future__ import annotations

import errno
import importlib
import inspect
import io
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from invariances.system.errors import Terminated, UserError, nearest

Entry = tuple[str, str]
COMMANDS: dict[str, Entry | dict[str, Entry]] = {
    "quickstart": ("quickstart:quickstart", "train and show everything on made pictures, in minutes"),
    "fit": ("fit:fit", "train the flow between an autoencoder's code and a layer"),
    "evaluate": ("evaluate:evaluate", "numbers and pictures of a trained run"),
    "profile": ("profile:profile_network", "what each layer of a network keeps, in numbers and on one page"),
    "compare": ("profile:compare_profiles", "two profiles side by side, with intervals of the differences"),
    "sample": ("sample:sample", "pictures that a layer cannot tell from yours"),
    "mix": ("mix:mix", "the content of each picture with the invariances of each other"),
    "attack": ("attack:attack", "what a layer makes of an adversarial attack"),
    "texture-bias": ("texture_bias:texture_bias", "shape or texture: what two networks keep"),
    "video": ("video:video", "a picture's content that moves as a clip does"),
    "demo": ("demo:demo", "all of these as an app in the browser"),
    "layers": ("layers:layers", "names and output shapes of a network's layers"),
    "fit-autoencoder": ("fit_autoencoder:fit_autoencoder", "train an autoencoder on a folder of pictures"),
    "data": {
        "list": ("data:list_sets", "every data set that has a name here, and whether it is here"),
        "prepare": ("data:prepare", "fetch a data set, or take it from an archive or folder"),
        "verify": ("data:verify", "read every picture, and name the broken ones"),
        "show": ("data:show", "a grid of pictures"),
    },
    "models": {
        "list": ("models:list_models", "every model that has a name here"),
        "info": ("models:info", "what is known about one model"),
        "download": ("models:download", "fetch published checkpoints and verify them"),
        "verify": ("models:verify", "check the files that are here"),
        "build": ("models:build", "train the shipped models again from nothing"),
    },
}
EXIT_USER, EXIT_OURS = 2, 1
_USERS_OS_ERRORS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.EEXIST: "it exists already",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "it is a link to itself",
    errno.ENXIO: "it is a device that is not there",
    errno.ENODEV: "it is a device that is not there",
}
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


def overview(commands: dict[str, Any], program: str) -> str:
    """The help of a table of commands."""
    lines = [f"usage: {program} COMMAND [--debug] ...", ""]
    if commands is COMMANDS:
        lines += ["What does this layer of my network know, and what does it ignore?", ""]
    width = max(map(len, commands)) + 2
    for name, entry in commands.items():
        summary = " | ".join(entry) if isinstance(entry, dict) else entry[1]
        lines.append(f"  {name:<{width}}{summary}")
    lines += ["", f"`{program} COMMAND --help` explains one command; --debug shows the trace of an error."]
    example = "invariances quickstart" if commands is COMMANDS else f"{program} {next(iter(commands))}"
    return "\n".join([*lines, "", "example:", f"  {example}"])


def run(arguments: Sequence[str], commands: dict[str, Any] = COMMANDS, program: str = "invariances") -> int:
    """Runs the command that `arguments` begin with; its exit status."""
    if not arguments:
        print(overview(commands, program), file=sys.stderr)
        return EXIT_USER
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        print(overview(commands, program))
        return 0
    if name == "--version":
        from invariances import __version__

        print(__version__)
        return 0
    if name not in commands:
        raise UserError(f"{name!r} is not a command of `{program}`; nearest: {nearest(name, commands)}")
    entry = commands[name]
    program = f"{program} {name}"
    if isinstance(entry, dict):
        return run(rest, entry, program)
    return _call(_function(entry[0]), rest, program)


def _function(home: str) -> Callable[..., Any]:
    module, _, name = home.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"invariances.cli.{module}"), name)
    return function


def _call(function: Callable[..., Any], arguments: Sequence[str], program: str) -> int:
    """Calls `function` with parsed arguments, or with the words as they are where it parses them itself."""
    from invariances.cli.parsing import build_parser, parse

    if list(inspect.signature(function).parameters) == ["argv"]:
        status = function(list(arguments))
    else:
        status = function(**parse(build_parser(function, program), arguments))
    return status if isinstance(status, int) else 0


def _says(error: BaseException) -> str | None:
    """One sentence where the user can mend `error`, else None."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _USERS_OS_ERRORS:
        what = _USERS_OS_ERRORS[error.errno]
        return f"{os.fsdecode(error.filename)}: {what}" if error.filename else f"{what}: {error}"
    if isinstance(error, MemoryError) or any(each in str(error) for each in _NO_MEMORY):
        return "the memory does not suffice; give smaller sizes, fewer pictures or samples, or a smaller batch size"
    return None


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is an exception, as Ctrl-C is, so that what is done is kept and said."""

    def stop(signum: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _stopped(interrupt: KeyboardInterrupt, words: Sequence[str]) -> int:
    """Says how to go on after a signal; the exit status, 128 and its number."""
    told = getattr(interrupt.__cause__, "signum", None)
    signum = told or (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
    command = shlex.join(["invariances", *words])
    print(f"invariances: stopped; the same command goes on with what is kept:\n{command}", file=sys.stderr)
    return 128 + int(signum)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 something the user can mend, 1 a fault of ours, 130 or 143 stopped by a signal."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal gets what it can show
    try:
        with _terminable():
            return run(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as interrupt:
        return _stopped(interrupt, words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OURS
    except Exception as error:
        if debug:
            traceback.print_exc()
        sentence = _says(error)
        if sentence is not None:
            print(f"invariances: {sentence}", file=sys.stderr)
            return EXIT_USER
        fault = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "" if debug else "; --debug shows the trace"
        print(f"invariances: a fault of ours, please report it: {fault}{hint}", file=sys.stderr)
        return EXIT_OURS


if __name__ == "__main__":
    sys.exit(main())
