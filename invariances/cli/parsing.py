"""From a typed function to a command: its parser, its help, and one sentence for what a user got wrong."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from invariances.system.errors import UserError, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def help_formatter() -> type[argparse.HelpFormatter]:
    """A help formatter that keeps the line breaks of descriptions and examples."""
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    return Formatter


def split_docstring(text: str | None) -> tuple[str, str]:
    """The description and the closing example of a Google docstring.

    Args:
        text: What stands above `Args:` is the description, what follows `Example:` the example.
    """
    before, _, after = inspect.cleandoc(text or "").partition("\nExample:")
    description = re.split(r"\n(?:Args|Returns|Raises):", before)[0].strip()
    example = inspect.cleandoc("\n" + after)
    return description, "example:\n" + "\n".join("  " + line for line in example.splitlines())


def build_parser(function: Callable[..., Any], program: str) -> ArgumentParser:
    """A parser with one argument per parameter of `function`, positional where it has no default.

    Args:
        function: Typed, with a Google docstring that ends with `Example:`. Parameters without default of type
            `list[T]` take one or more words, and so do options of type `list[T] | None`.
        program: The words before the arguments, shown in usage lines.
    """
    from jsonargparse import ArgumentParser

    description, example = split_docstring(function.__doc__)
    parser = ArgumentParser(
        prog=program,
        description=description,
        epilog=example,
        formatter_class=help_formatter(),
        exit_on_error=False,
        allow_abbrev=False,
    )
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    several = {}
    for each in parameters:
        kinds = [hints.get(each.name), *get_args(hints.get(each.name))]
        kind = next((get_args(one)[0] for one in kinds if get_origin(one) is list), None)
        if kind is not None:
            several[each.name] = (kind, each.default is each.empty)
    parser.add_function_arguments(function, as_positional=True, skip=set(several))
    for group in parser._action_groups:
        if group.title and group.title.startswith(description.splitlines()[0].rstrip(".")):
            group.title = "arguments"
    texts = _argument_texts(function)
    for name, (kind, required) in several.items():
        words = {"type": kind, "help": texts.get(name, "")}
        if required:
            parser.add_argument(name, nargs="+", **words)
        else:
            parser.add_argument(f"--{name}", nargs="+", default=None, **words)
    return with_flags(parser)


def options_parser(kind: type, doc: str | None, command: str, usage: str, *leave_out: str) -> ArgumentParser:
    """A parser whose options are the fields of a dataclass.

    Args:
        kind: The dataclass.
        doc: The command's docstring, for its help.
        command: Its name.
        usage: What follows it in the usage line.
        leave_out: Fields that are no options.
    """
    from invariances.training.config import config_parser

    description, example = split_docstring(doc)
    program = f"invariances {command}"
    parser: ArgumentParser = config_parser(
        kind,
        *leave_out,
        prog=program,
        usage=f"{program} {usage}",
        description=description,
        epilog=example,
        formatter_class=help_formatter(),
    )
    return parser


def with_flags(parser: ArgumentParser) -> ArgumentParser:
    """The parser, whose booleans may stand alone: `--resume` is `--resume true`."""
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool and action.option_strings:
            action.nargs, action.const = "?", True
            action.metavar = "BOOL"
    return parser


def with_short_words(parser: ArgumentParser, short: Mapping[str, str]) -> ArgumentParser:
    """The parser with further words for some options, {"--steps": "learning.steps"}; its help shows both."""
    by_name = {action.dest: action for action in parser._actions}
    for word, name in short.items():
        action = by_name[name]
        action.option_strings = [word, *action.option_strings]
        parser._option_string_actions[word] = action
    return parser


def check_configs(arguments: Sequence[str]) -> None:
    """Reads the YAML files that follow -c or --config once, before the parser does.

    Raises:
        UserError: One cannot be read, or holds no settings.
    """
    from invariances.system.yaml_file import read_yaml

    for word, after in zip(arguments, [*arguments[1:], ""]):
        if word in ("-c", "--config") or word.startswith("--config="):
            path = word.removeprefix("--config=") if "=" in word else after
            if not isinstance(read_yaml(path), dict):
                raise UserError(
                    f"the config file {path!r} holds no settings, which are lines such as 'layer: layer4'"
                )


def words_of(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The words as the parser takes them: lone booleans are true, `--layers a b` is `--layers=["a","b"]`."""
    typed = [action for action in parser._actions if hasattr(action, "_typehint")]
    flags = {word for each in typed if each._typehint is bool for word in each.option_strings}
    named = [each for each in typed if each.dest.split(".")[-1] == "layers" and each.nargs is None]
    lists = {word for each in named for word in each.option_strings}
    words, found = list(arguments), []
    while words:
        word = words.pop(0)
        if word in flags and (not words or words[0].lower() not in ("true", "false", "yes", "no")):
            word = f"{word}=true"
        elif word in lists and words and not words[0].startswith(("[", "-", "null")):
            count = next((n for n, each in enumerate(words) if each.startswith("-")), len(words))
            word = f"{word}={json.dumps(words[:count])}"
            del words[:count]
        found.append(word)
    return found


def _argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    from docstring_parser import parse

    return {each.arg_name: each.description or "" for each in parse(function.__doc__ or "").params}


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments out of words.

    Raises:
        UserError: Naming the key, and the nearest known one where it is misspelt.
    """
    with explained(parser):
        return dict(vars(parser.parse_args(words_of(parser, arguments))))


class explained:
    """Turns a parser's errors into a `UserError` of one sentence."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.parser = parser

    def __enter__(self) -> None:
        warnings.filterwarnings("ignore", module="jsonargparse")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, argparse.ArgumentError) or type(error).__name__ == "ParserError":
            raise UserError(explain(str(error), keys(self.parser))) from error


def keys(parser: ArgumentParser) -> list[str]:
    """Every key that `parser` knows, dotted as on the command line."""
    hidden = {"help", "print_config", argparse.SUPPRESS}
    return [each.dest for each in parser._actions if each.dest not in hidden and "." not in each.dest[-1:]]


def explain(message: str, known: Iterable[str]) -> str:
    """One sentence for a parser's message, with the nearest of the `known` keys."""
    known = list(known)
    if found := re.search(r"nrecognized arguments: (.+)", message):
        words = found.group(1).split()
        word = words[0].split("=")[0]
        if not word.startswith("-"):
            return f"{word!r} is one word too many; see --help"
        return _unknown(word.lstrip("-"), known)
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return _unknown(f"{found.group(1)}.{found.group(2)}", known)
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        return _unknown(found.group(1), known)
    if found := re.search(r"Key '([^']+)' is not expected", message):
        return _unknown(found.group(1), known)
    if found := re.search(r"following arguments are required: (.+)", message):
        names = [each.strip() for each in found.group(1).split(",")]
        return (
            f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing; see --help for an example"
        )
    if found := re.search(r'arser key "config":?\s*(.+)', message, re.DOTALL):
        return f"the config file cannot be read: {_flat(found.group(1))}"
    if found := re.search(r"Problems parsing config:?\s*(.+)", message, re.DOTALL):
        return f"the config file is not valid YAML: {_flat(found.group(1))}"
    if found := re.search(r'arser key "([^"]+)":?\s*(.+)', message, re.DOTALL):
        return _wrong_value(found.group(1), _flat(found.group(2)))
    return _flat(message)


def _unknown(key: str, known: list[str]) -> str:
    if key in known:
        return f"{key!r} is not an option, but a word of its own: leave out the --; see --help for an example"
    last = key.rsplit(".", 1)[-1]
    close = [each for each in known if each.rsplit(".", 1)[-1] == last]
    return f"{key!r} is not an option; nearest: {nearest(key, close or known, n=3)}"


def _wrong_value(key: str, text: str) -> str:
    found = re.search(r"Expected an? (.+?)\. Got value: (.*)", text)
    if not found:
        return f"{key}: {text}"
    kind, value = found.groups()
    names = re.findall(r"<class '(\w+)'>", kind)
    choices = re.search(r"Literal\[(.+?)\]", kind)
    if names:
        kind = " or ".join(_TYPES.get(each, each) for each in names)
    elif choices:
        kind = f"one of {choices.group(1)}"
    return f"{key} must be {kind}, not {value!r}"


def _flat(text: str) -> str:
    return " ".join(text.split())
