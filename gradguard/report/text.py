"""Names that come from files and from other people's code, made fit to be shown."""


def printable(name: str) -> str:
    r"""The name as one line that neither moves a cursor nor hides anything; different names stay different.

    What cannot be printed is written as an escape, such as `\x1b`, and then a backslash is doubled.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(char if char.isprintable() and char != "\\" else _escaped(char) for char in name)


def one_line(text: str) -> str:
    """Text as one line in which nothing is hidden, whatever names stand in it."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
