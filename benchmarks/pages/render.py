"""Pages with their figures filled in."""

import importlib

STUDIES = ("consistency", "generator", "growth", "learning", "peers", "suite")
"""The modules of this package whose functions a page may call."""


def render(markdown: str) -> str:
    """Fill in the figures of a page, which are calls of functions of this package in `{{ }}`.

    **Raises:** `jinja2.UndefinedError` for a function that there is not; `LookupError` for a figure
    that the results lack.
    """
    if "{{" not in markdown:
        return markdown
    import jinja2  # it comes with mkdocs, and only the documentation needs it

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    for name in STUDIES:
        environment.globals[name] = importlib.import_module(f"benchmarks.pages.{name}")
    return environment.from_string(markdown).render()
