"""The built documentation in a browser: pages, pictures and search."""

import contextlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
BROKEN_PICTURES = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
IS_TOO_WIDE = "document.documentElement.scrollWidth > innerWidth + 2"
LINKS = "[...document.links].map(a => a.href)"
NAMES = "[...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name)"
LOOKS = {"wide": (1300, "light"), "dark": (1300, "dark"), "narrow": (420, "light")}
SCHEME = "document.body.getAttribute('data-md-color-scheme')"
SCHEMES = {"light": "default", "dark": "slate"}
SHOWN = ("index", "results/speed", "results/peers", "api/policies", "coming_from/cleanrl")
"""Pages that are photographed, for a person to look at."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine alone; the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def broken_links(
    site: Path, address: str, links: set[tuple[str, str]], names: dict[str, set[str]]
) -> Iterator[tuple[str, str]]:
    """The links from a page to a place in the site that is not there."""
    for page, link in sorted(links):
        if not link.startswith(address):
            continue
        target, _, anchor = unquote(link.removeprefix(address)).partition("#")
        target = target if target and not target.endswith("/") else f"{target}index.html"
        if not (site / target).is_file() or anchor and anchor not in names.get(target, {anchor}):
            yield page, link


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").touch()
    links = {("a.html", f"http://x/{name}") for name in ("a.html#top", "a.html#no", "b.html")}
    found = broken_links(tmp_path, "http://x/", links, {"a.html": {"top"}})
    assert [link for _, link in found] == ["http://x/a.html#no", "http://x/b.html"]


def watch(page: Any, address: str, faults: list) -> None:
    """Note errors of scripts, and what is missing or comes from another host."""
    page.on("pageerror", lambda error: faults.append((page.url, str(error))))
    page.on("response", lambda r: r.status >= 400 and faults.append((page.url, r.url)))
    page.on(
        "request",
        lambda r: r.url.startswith((address, "data:", "blob:")) or faults.append((page.url, r.url)),
    )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_site_in_a_browser(tmp_path):
    pytest.importorskip("mkdocs")
    playwright = pytest.importorskip("playwright.sync_api")
    installed = map(shutil.which, ("chromium", "google-chrome"))
    browser_path = os.environ.get("RLSCAN_BROWSER") or next(filter(None, installed), None)
    if browser_path is None:
        pytest.skip("there is no Chromium; RLSCAN_BROWSER names one that is not on the PATH")
    site, faults = tmp_path / "site", []
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site]
    subprocess.run(build, cwd=ROOT, check=True)
    pages = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    assert len(pages) > 40
    with served(site) as address, playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        names, links = {}, set()
        for look, (width, scheme) in LOOKS.items():
            # Each in a context of its own: the theme remembers its colours from page to page.
            page = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            ).new_page()
            watch(page, address, faults)
            for name in pages:
                page.goto(address + name)
                faults += [(name, picture) for picture in page.evaluate(BROKEN_PICTURES)]
                if page.evaluate(IS_TOO_WIDE):
                    faults.append((name, f"wider than {width} pixels"))
                if page.evaluate(SCHEME) != SCHEMES[scheme]:
                    faults.append((name, f"not {scheme}"))
                if name.removesuffix(".html") in SHOWN:
                    photo = name.removesuffix(".html").replace("/", "-")
                    page.screenshot(path=tmp_path / f"{photo}-{look}.png")
                names[name] = set(page.evaluate(NAMES))
                links |= {(name, link) for link in page.evaluate(LINKS)}
        faults += broken_links(site, address, links, names)
        assert not faults
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.goto(address)
        page.click(".md-search__input")
        page.keyboard.type("replay")
        page.wait_for_selector(".md-search-result__item")
        assert "Replay and keys" in page.inner_text(".md-search-result__list")
        browser.close()
