"""Tables and numbers in Markdown."""

from collections.abc import Iterable, Sequence

MISSING = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose figures are on the right of their columns, and names on the left."""
    cells = [[_unbroken(str(cell)) for cell in row] for row in rows]
    columns = zip(*cells, strict=True)
    rule = ["---:" if all(map(_is_figure, column)) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *cells))


def _unbroken(cell: str) -> str:
    """Keep a figure, and a size such as `N = 4`, on one line."""
    return cell.replace(" ", "\xa0") if _is_figure(cell) else cell.replace(" = ", "\xa0=\xa0")


def _is_figure(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in (MISSING, "−")


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def signed(number: float, digits: int) -> str:
    """Format with a minus sign, which a hyphen is not."""
    return f"{number:.{digits}f}".replace("-", "−")
