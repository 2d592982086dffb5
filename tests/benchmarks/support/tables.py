"""The aligned text tables that every benchmark prints."""

from collections.abc import Iterable, Sequence

Row = tuple[str, ...]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An aligned table: the first column to the left, the others to the right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    ruled = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in ruled
    )
