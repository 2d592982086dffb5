"""All texts that users see, in one file that a reader can skim. `python tests/messages.py` writes it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CATALOGUE = ROOT / "tests" / "messages.txt"
HEADING = "All texts of the product, made by `python tests/messages.py`; what a field shows stands in braces.\n"
LEAST_WORDS = 3  # a shorter literal is a name, a key or a label
JAVASCRIPT = re.compile(  # comments, and the three kinds of strings
    r"""//[^\n]*|'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`""", re.DOTALL
)


def catalogue() -> str:
    """The text of the file: the modules in alphabetical order, the texts of each in the order of its source."""
    texts = {path.relative_to(ROOT).as_posix(): list(templates(path)) for path in sources()}
    listed = [f"{name}\n{''.join(map(_listed, found))}" for name, found in sorted(texts.items()) if found]
    return "\n".join([HEADING, *listed])


def sources() -> list[Path]:
    """The modules of the product, those of the tab included."""
    return [path for folder in ("gradguard", "integrations") for path in (ROOT / folder).rglob("*.[pj][ys]")]


def templates(path: Path) -> list[str]:
    """The texts of a module, in order: literals of three words or more that are no docstrings."""
    source = path.read_text(encoding="utf-8")
    found = _literals(ast.parse(source)) if path.suffix == ".py" else _literals_of_javascript(source)
    return [text for text in found if _is_text(text)]


def _listed(text: str) -> str:
    return "  - " + "\n    ".join(text.strip("\n").splitlines()) + "\n"


def _is_text(text: str) -> bool:
    words = re.findall(r"\S*[^\W\d_]{2,}\S*", text)
    is_code = re.search(r"\(\?[:P<]|^<[a-z!/]", text)
    return len(words) >= LEAST_WORDS and any(word.isalpha() for word in words) and not is_code


def _literals(node: ast.AST) -> Iterator[str]:
    """The strings below a node, with the names of the fields in braces; literals that are joined implicitly are one."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"{{{_name(part)}}}" for part in node.values
        )
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from _literals(child)


def _name(node: ast.AST) -> str:
    """A short name for what a field shows."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return "type" if node.attr == "__name__" else node.attr
    if isinstance(node, ast.Call) and node.args and not _name(node.func).startswith("_"):
        return _name(node.args[0]) or _name(node.func)
    return next(filter(None, map(_name, ast.iter_child_nodes(node))), "")


def _literals_of_javascript(source: str) -> Iterator[str]:
    for match in JAVASCRIPT.finditer(source):
        text = next(filter(None, match.groups()), "")
        yield re.sub(r"\$\{[^{}]*?(\w+)\W*\}", r"{\1}", text)


if __name__ == "__main__":
    CATALOGUE.write_text(catalogue(), encoding="utf-8")
