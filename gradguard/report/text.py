"""Names and lists of names, fit to be shown: names come from files and from other people's code."""

import textwrap
from collections.abc import Sequence

MAX_DIGITS = 17  # of a number: with so many, different numbers are different texts
MAX_NAMES = 8  # in a sentence; the last of more are counted
MAX_LOG_LINE = 180  # characters: with the level and the name of the logger before it, a line has less than 200
MAX_LOG_LINES = 4  # of one message
MAX_NAME_IN_LOG = 60  # characters, of a name and of a list of names
LOG_PREFIX = "gradguard: "
MORE = "(more in guard.report)"


def printable(name: str) -> str:
    r"""The name as one line that neither moves a cursor nor hides anything; different names stay different.

    What cannot be printed is written as an escape, such as `\x1b`, and then a backslash is doubled.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(char if char.isprintable() and char != "\\" else _escaped(char) for char in name)


def one_line(text: str) -> str:
    """The text as one line, in which what cannot be printed is written as an escape."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def listed(names: Sequence[str]) -> str:
    """At least one name, as in "Wx, Wh and b"; of many names the last are counted."""
    if len(names) > MAX_NAMES:
        return f"{', '.join(names[: MAX_NAMES - 1])} and {len(names) - MAX_NAMES + 1} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def listed_briefly(names: Sequence[str]) -> str:
    """At least one name, as many as fit into `MAX_NAME_IN_LOG` characters and one at least; the others are counted."""
    for count in range(min(len(names), MAX_NAMES), 1, -1):
        text = listed(names) if count == len(names) else f"{', '.join(names[:count])} and {len(names) - count} more"
        if len(text) <= MAX_NAME_IN_LOG:
            return text
    first = names[0]
    if len(first) > MAX_NAME_IN_LOG:
        half = (MAX_NAME_IN_LOG - 3) // 2
        first = f"{first[:half]}...{first[-half:]}"
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def log_message(text: str, more: str = MORE) -> str:
    """The text as a message in a log: at most `MAX_LOG_LINES` lines of `MAX_LOG_LINE` characters; each says who writes.

    Args:
        text: What to log.
        more: What stands at the end of a text that is cut off.
    """
    return textwrap.fill(
        one_line(text.replace("\n", " ")),
        MAX_LOG_LINE,
        initial_indent=LOG_PREFIX,
        subsequent_indent=f"{LOG_PREFIX}  ",
        max_lines=MAX_LOG_LINES,
        placeholder=f" ... {more}",
        break_on_hyphens=False,
    )


def told_apart(one: float, other: float, digits: int) -> tuple[str, str]:
    """Two numbers with some digits, or with as many more as it takes to see that they differ."""
    while digits < MAX_DIGITS and f"{one:.{digits}g}" == f"{other:.{digits}g}":
        digits += 1
    return f"{one:.{digits}g}", f"{other:.{digits}g}"


def counted(number: int, noun: str) -> str:
    """A number of things, as in "1 tensor" and "2 tensors"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """A share with two digits, or those before the point, as in "0.2 %" and "150 %"."""
    value = 100 * share
    return f"{value:.0f} %" if 99.5 <= value < 1e4 else f"{value:.2g} %"  # 99.5 would be written as 1e+02


def encodable(text: str) -> str:
    """Text that UTF-8 can encode: a name from a file system may hold a lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode()


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
