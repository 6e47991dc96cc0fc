"""What mkdocs builds beside `docs/`: files of the repository, figures, and links to the API.

Links are written as they are between files of the repository, so that they work there too. What
they reach outside of `docs/` becomes a page or a file of the site, in the same place as in the
repository; nothing is copied or typed twice. A notebook, which the repository keeps as a script,
becomes a page, and an `.ipynb` to download.
"""

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # for `benchmarks`, which are not installed
from benchmarks.pages import render  # noqa: E402

NOTEBOOKS = ROOT / "examples" / "notebooks"
MOUNTED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
"""Pages in the navigation that lie outside of `docs/`."""

_LOG = logging.getLogger("mkdocs.hooks.rlscan")  # below mkdocs', whose warnings end a strict build
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)((?:#[^)\s]*)?\))")
_NAME = re.compile(r"<(h\d|a)\b.*?</\1>|<code>(rlscan(?:\.\w+)+)</code>", re.DOTALL)
_ELSEWHERE = re.compile(
    r'<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)="?(?:https?:)?//[^>]*'
)
_IN_API = {
    name
    for file in (DOCS / "api").glob("*.md")
    for name in re.findall(r"^::: (rlscan\S*)", file.read_text(), re.MULTILINE)
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of `docs/` that pages link to, and those that these link to."""
    pages = [Path(file.abs_src_path or "") for file in files if file.is_documentation_page()]
    waiting = [*(ROOT / name for name in MOUNTED), *sorted(NOTEBOOKS.glob("*.py"))]
    waiting += [target for page in pages for target in _targets(page)]
    done = set()
    while waiting:
        path = waiting.pop()
        if path in done or path.is_relative_to(DOCS) or not path.is_file():
            continue  # a missing file is reported by mkdocs, as a link that leads nowhere
        done.add(path)
        name = path.relative_to(ROOT)
        if path.parent == NOTEBOOKS:
            for suffix, content in _notebook(path).items():
                made = name.with_suffix(suffix).as_posix()
                files.append(File.generated(config, made, content=content))
        else:
            files.append(File.generated(config, name.as_posix(), abs_src_path=str(path)))
        if path.suffix == ".md" or path.parent == NOTEBOOKS:
            waiting += _targets(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the figures, and point links at the places of their targets in the site."""
    source = Path(page.file.abs_src_path or ROOT / page.file.src_uri)
    here = Path(_site_path(source)).parent
    if source.is_relative_to(DOCS):
        markdown = render(markdown)

    def move(link: re.Match) -> str:
        target = Path(os.path.normpath(source.parent / link[2]))
        if target.parent == NOTEBOOKS != source.parent:
            target = target.with_suffix(".md")
        return link[1] + os.path.relpath(_site_path(target), here) + link[3]

    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(move, text) for text in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link public names to the API, in docstrings too, but not in links and headings."""

    def link(found: re.Match) -> str:
        is_public = found[2] in _IN_API
        return f'<autoref identifier="{found[2]}">{found[0]}</autoref>' if is_public else found[0]

    return _NAME.sub(link, html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of what a page would load from another host; a strict build then fails."""
    for resource in _ELSEWHERE.findall(output):
        _LOG.warning("%s loads from another host: %s", page.file.src_path, resource)
    return output


def _notebook(script: Path) -> dict[str, str]:
    """A notebook as a page and as a file for Jupyter, by suffix; neither has outputs."""
    notebook = jupytext.read(script)
    title, _, rest = notebook.cells[0].source.partition("\n")
    name = script.stem
    links = f"A notebook without its outputs: [{name}.ipynb]({name}.ipynb), [{name}.py]({name}.py)."
    page = [title, links, rest]
    for cell in notebook.cells[1:]:
        is_code = cell.cell_type == "code"
        page.append(f"```python\n{cell.source}\n```" if is_code else cell.source)
    return {
        ".md": "\n\n".join(page) + "\n",
        ".ipynb": jupytext.writes(notebook, fmt="ipynb"),
        ".py": script.read_text(),
    }


def _targets(page: Path) -> Iterator[Path]:
    """The files that a page links to."""
    for link in _LINK.finditer(_FENCED.sub("", page.read_text())):
        yield Path(os.path.normpath(page.parent / link[2]))


def _site_path(path: Path) -> str:
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
