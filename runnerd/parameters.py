"""parameters: what a template's parameter takes: its declaration, and the check of a value. Pure.

A value reaches a script as $PARAM_NAME, and the script may pass it on to any program. So a text
starts with no dash, has one line and ordinary characters, unless the template says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from .kinds import CONTROL, LONGEST_ARGUMENT, Boolean, Choice, Count, Line, Text
from .names import DIRECTORY
from .patterns import Regex, compiled
from .places import is_absolute, lies_below
from .settings import Parameter, ParameterType
from .shapes import Field, Items, Record
from .yamlsafe import cut

LONGEST = 200
_MOST = 999_999_999
_HOSTNAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    r"(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*",
    re.ASCII,
)
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # in a text of several lines

PARAMETER = Record(
    (
        Field("type", Choice(ParameterType), "What it holds.", "hostname", default="string"),
        Field("help", Line(500), "What it is for.", "The site's name."),
        Field("example", Text(), "A good value.", "example.org"),
        Field("default", Text(), "Its value if none is given.", '"8.3"'),
        Field(
            "required",
            Boolean(),
            "Whether it must be given. If it need not be and has no default, it is not set.",
            "false",
            default="true, unless there is a default",
        ),
        Field(
            "pattern",
            Regex(),
            "For a string: the regular expression that all of it matches.",
            '"[a-z][a-z0-9-]*"',
        ),
        Field(
            "max_length",
            Count(1, 100_000),
            "For a string: its most characters.",
            "32",
            default=str(LONGEST),
        ),
        Field(
            "multiline",
            Boolean(),
            "For a string: whether it may have several lines.",
            "true",
            default="false",
        ),
        Field(
            "allow_dash",
            Boolean(),
            "For a string: whether it may start with -, as an option of a program does.",
            "true",
            default="false",
        ),
        Field("min", Count(-_MOST, _MOST), "For an integer: the least.", "1", default="0"),
        Field("max", Count(-_MOST, _MOST), "For an integer: the most.", "9", default=str(_MOST)),
        Field("values", Items(Text()), "For an enum: its values.", '["8.2", "8.3"]'),
        Field("below", DIRECTORY, "For a path: the directory that it stays below.", "/srv/www"),
    ),
    Parameter,
)

_OPTIONS = {
    ParameterType.STRING: ("pattern", "max_length", "multiline", "allow_dash"),
    ParameterType.INTEGER: ("min", "max"),
    ParameterType.ENUM: ("values",),
    ParameterType.BOOLEAN: (),
    ParameterType.HOSTNAME: (),
    ParameterType.PATH: ("below",),
}
_NEEDED = {ParameterType.ENUM: "values", ParameterType.PATH: "below"}


def objections(parameter: Parameter) -> Iterator[str]:
    """What is wrong with a declaration whose fields are good each by itself."""
    for kind, options in _OPTIONS.items():
        for name in options:
            if kind is not parameter.type and getattr(parameter, name) is not None:
                yield f"`{name}` is for the type {kind}; this is {parameter.type}"
    unusable = _unusable(parameter)
    if unusable is not None:
        yield unusable
        return
    if parameter.required and parameter.default is not None:
        yield "a parameter with a `default` cannot be `required`"
    for name in ("default", "example"):
        text = getattr(parameter, name)
        try:
            value_of(parameter, text or "") if text is not None else None
        except ValueError as error:
            yield f"`{name}`: {error}"
    if parameter.pattern is not None and parameter.example is None and parameter.default is None:
        yield "a parameter with a `pattern` needs an `example`"


def _unusable(parameter: Parameter) -> str | None:
    """Why no value can be checked by this declaration, or None."""
    needed = _NEEDED.get(parameter.type)
    if needed is not None and getattr(parameter, needed) is None:
        return f"the type {parameter.type} needs `{needed}`"
    if parameter.type is ParameterType.INTEGER and _range(parameter)[0] > _range(parameter)[1]:
        return "`min` is above `max`"
    if parameter.below is not None and not is_absolute(parameter.below):
        return "`below`: expected a path without . and .."
    return None


def is_required(parameter: Parameter) -> bool:
    return parameter.default is None and parameter.required is not False


def example_of(parameter: Parameter) -> str:
    """A good value of a parameter that was not objected to."""
    given = parameter.example if parameter.example is not None else parameter.default
    if given is not None:
        return given
    match parameter.type:
        case ParameterType.INTEGER:
            return str(_range(parameter)[0])
        case ParameterType.ENUM:
            return (parameter.values or ("",))[0]
        case ParameterType.BOOLEAN:
            return "true"
        case ParameterType.PATH:
            return f"{(parameter.below or '').rstrip('/')}/example"
        case _:
            return "example.org"[: parameter.max_length]


def describe(parameter: Parameter) -> str:
    """What a parameter takes, in words."""
    match parameter.type:
        case ParameterType.INTEGER:
            least, most = _range(parameter)
            return f"a whole number from {least} to {most}"
        case ParameterType.ENUM:
            return f"one of {cut(', '.join(parameter.values or ()), 200)}"
        case ParameterType.BOOLEAN:
            return "true or false"
        case ParameterType.HOSTNAME:
            return "a host name, like example.org"
        case ParameterType.PATH:
            return f"a path below {cut(parameter.below or '', 200)}"
        case ParameterType.STRING:
            lines = "a text" if parameter.multiline else "one line of text"
            like = f" that matches {cut(parameter.pattern, 200)}" if parameter.pattern else ""
            return f"{lines}, at most {parameter.max_length or LONGEST} characters{like}"


def value_of(parameter: Parameter, text: str) -> str:
    """The value as the job gets it. Raises ValueError with what was expected."""
    match parameter.type:
        case ParameterType.INTEGER:
            least, most = _range(parameter)
            if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) and least <= int(text) <= most:
                return str(int(text))  # no leading zeros: a shell would take them for octal
        case ParameterType.ENUM if text in (parameter.values or ()):
            return text
        case ParameterType.BOOLEAN if text in ("true", "false"):
            return text
        case ParameterType.HOSTNAME if _HOSTNAME.fullmatch(text.lower()):
            return text.lower()
        case ParameterType.PATH if (path := _path(text, parameter.below or "/")) is not None:
            return path
        case ParameterType.STRING:
            return _text(parameter, text)
    raise ValueError(f"expected {describe(parameter)}, found {cut(text)!r}")


def _text(parameter: Parameter, text: str) -> str:
    odd = _ODD if parameter.multiline else CONTROL
    fits = len(text) <= (parameter.max_length or LONGEST) and not odd.search(text)
    if not fits or (parameter.pattern and not _compiled(parameter.pattern).fullmatch(text)):
        raise ValueError(f"expected {describe(parameter)}, found {cut(text)!r}")
    if text.startswith("-") and not parameter.allow_dash:
        raise ValueError(f"a value that starts with - is not taken here, found {cut(text)!r}")
    if len(text.encode()) > LONGEST_ARGUMENT:
        raise ValueError(f"longer than {LONGEST_ARGUMENT // 1024} KiB")
    return text


def _path(text: str, below: str) -> str | None:
    """The absolute path, if it stays below the directory. Links are the script's business."""
    path = text if text.startswith("/") else f"{below}/{text}"
    if not text or CONTROL.search(path) or not is_absolute(path) or "//" in text:
        return None
    tidy = "/" + "/".join(part for part in path.split("/") if part)
    return tidy if lies_below(tidy, below) and not lies_below(below, tidy) else None


def _range(parameter: Parameter) -> tuple[int, int]:
    least = 0 if parameter.min is None else parameter.min
    return least, _MOST if parameter.max is None else parameter.max


_compiled = cache(compiled)
