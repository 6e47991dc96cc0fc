"""`page`: a comparison of runs as one HTML page that needs nothing else."""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .._core.require import require_extra
from ..runs._compare import Cell, Comparison
from ..runs._directory import CONFIG_FILE
from ..runs._final import final_returns, median_run
from ..runs._groups import read_labels
from ..runs._info import INFO_FILE
from ..runs._load import load_trained
from ..runs._report import tables
from .comparison import draw_returns, draw_statistics
from .play import play
from .plot import AUDIT, content_of, plot
from .render import render

MOST_FRAMES = 120  # of an episode
MOST_BYTES = 2_000_000

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; padding: 1rem 1.5rem;
 max-width: 60rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.25rem; margin-top: 2.5rem; }}
h3 {{ font-size: 1rem; margin: 1.5rem 0 0; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid #ddd;
 vertical-align: top; }}
td {{ font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; height: auto; }}
figure {{ margin: 0; }} figcaption, p.note {{ color: #555; font-size: 0.9rem; }}
.episodes {{ display: grid; gap: 1rem;
 grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }}
pre {{ background: #f5f5f5; padding: 0.75rem; overflow-x: auto; font-size: 0.8rem; }}
summary {{ cursor: pointer; }}
nav a {{ margin-right: 1rem; }}
</style>
</head>
<body>
"""


def page(
    found: Comparison,
    directories: Sequence[str | Path],
    *,
    labels: Sequence[str] = (),
    has_episodes: bool = True,
    allow: Sequence[str] = (),
) -> str:
    """Write a comparison as one HTML page that loads nothing: pictures are in it, scripts are not.

    **Arguments:**

    - `found`: from `compare`.
    - `directories`, `labels`: as for `compare`.
    - `has_episodes`: whether to play and draw an episode of each algorithm in each environment, by
        the run of median return.
    - `allow`: the modules whose classes may be built for that, see `rlscan.load_policy`.

    **Raises:** `ModuleNotFoundError` without `rlscan[plot]`.
    """
    require_extra("pages", "plot", "matplotlib", "PIL")
    title = f"rlscan: {', '.join(found.environments)}"
    sections = {
        "Results": _results(found),
        "Learning curves": [_picture(draw_returns(found), "Return over environment steps")],
        "Audit": _audit(directories, labels),
        "Episodes": _episodes(found, allow) if has_episodes else [],
        "Settings": _settings(directories),
        "Versions": _versions(directories),
    }
    sections = {name: list(parts) for name, parts in sections.items()}
    links = [f'<a href="#{_anchor(name)}">{name}</a>' for name, parts in sections.items() if parts]
    body = [f"<h1>{_text(title)}</h1>", f"<nav>{' '.join(links)}</nav>"]
    for name, parts in sections.items():
        if parts:
            body += [f'<h2 id="{_anchor(name)}">{name}</h2>', *parts]
    return "\n".join([_HEAD.format(title=_text(title)), *body, "</body>", "</html>", ""])


def _results(found: Comparison) -> Iterator[str]:
    for table in tables(found):
        yield f"<h3>{_text(table.title)}</h3>"
        yield f'<p class="note">{_text(table.note)}</p>'
        yield _table(table.header, table.rows)
    if found.overall:
        yield _picture(draw_statistics(found), "Statistics over all environments and seeds")


def _audit(directories: Sequence[str | Path], labels: Sequence[str]) -> Iterator[str]:
    yield (
        '<p class="note">Before the first gradient step of each update, the policy that is updated '
        "must be the policy that acted: all of these are 0 up to rounding. Curves show the worst "
        "seed.</p>"
    )
    try:
        names = read_labels(labels, directories)
        yield _image("image/svg+xml", plot(directories, AUDIT, suffix=".svg", names=names), "Audit")
    except ValueError as error:  # a loop of one's own need not have these metrics
        yield f"<p>There is no audit: {_text(str(error))}.</p>"


def _episodes(found: Comparison, allow: Sequence[str]) -> Iterator[str]:
    yield (
        '<p class="note">One episode of the run with the median return of each algorithm, by the '
        "mode of its distribution, without dropout.</p>"
    )
    yield '<div class="episodes">'
    for cell in found.cells:
        yield _episode(cell, allow)
    yield "</div>"


def _episode(cell: Cell, allow: Sequence[str]) -> str:
    """A figure of an episode, or the reason why there is none."""
    caption = f"{cell.algorithm}, {cell.environment}"
    try:
        returns = [float(final_returns(run)[0]) for run in cell.group.runs]
        directory, run = cell.group.sources[median_run(returns)]
        has_several = sum(source[0] == directory for source in cell.group.sources) > 1 or run > 0
        trained = load_trained(directory, run=run if has_several else None, allow=allow)
        episode = play(trained)
        content, frames = b"", MOST_FRAMES
        while not content or (len(content) > MOST_BYTES and frames > 8):
            content, _ = render(
                episode, trained.config.env.title, trained.env, max_frames=frames, is_thinned=True
            )
            frames //= 2
    except (ValueError, FileNotFoundError) as error:
        return f"<p>No episode of {_text(caption)}: {_text(str(error))}.</p>"
    length = int(episode.length)
    total = float(episode.reward[:length].sum())
    words = f"{caption}: {length:,} steps, return {total:.4g} ({directory}, run {run})"
    picture = _image("image/gif", content, words)
    return f"<figure>{picture}<figcaption>{_text(words)}</figcaption></figure>"


def _settings(directories: Sequence[str | Path]) -> Iterator[str]:
    for directory in directories:
        file = Path(directory, CONFIG_FILE)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = f"no {CONFIG_FILE}"
        summary = f"<summary>{_text(str(directory))}</summary>"
        yield f"<details>{summary}<pre>{_text(text)}</pre></details>"


def _versions(directories: Sequence[str | Path]) -> Iterator[str]:
    rows = []
    for directory in directories:
        for session in _sessions(Path(directory)):
            versions = session.get("versions")
            known = versions.items() if isinstance(versions, dict) else ()
            rows.append(
                [
                    str(directory),
                    session.get("started", ""),
                    ", ".join(f"{name} {version}" for name, version in known),
                    str(session.get("git_commit") or "")[:12],
                    _words(session.get("devices"), ", "),
                    _words(session.get("command"), " "),
                ]
            )
    if rows:
        header = ["run", "started", "versions", "commit", "devices", "command"]
        yield _table(header, [[str(cell) for cell in row] for row in rows])


def _words(found: Any, between: str) -> str:
    return between.join(map(str, found)) if isinstance(found, list) else str(found or "")


def _sessions(directory: Path) -> list[dict[str, Any]]:
    try:
        sessions = json.loads((directory / INFO_FILE).read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):  # no file, or one edited by hand
        return []
    return [one for one in sessions if isinstance(one, dict)] if isinstance(sessions, list) else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    head = line("th", header)
    return f'<div class="table"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _picture(figure: Any, words: str) -> str:
    return _image("image/svg+xml", content_of(figure, ".svg"), words)


def _image(kind: str, content: bytes, words: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{_text(words)}" src="data:{kind};base64,{data}">'


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _text(text: str) -> str:
    return html.escape(text)
