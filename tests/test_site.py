"""The built documentation in a browser: pages, pictures and search."""

import contextlib
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BROKEN_PICTURES = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
IS_TOO_WIDE = "document.documentElement.scrollWidth > innerWidth + 2"


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


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_site_in_a_browser(tmp_path):
    pytest.importorskip("mkdocs")
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("there is no Chromium")
    site, faults = tmp_path / "site", []
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site]
    subprocess.run(build, cwd=ROOT, check=True)
    pages = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    assert len(pages) > 40
    with served(site) as address, playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: faults.append((page.url, str(error))))
        page.on("response", lambda r: r.status >= 400 and faults.append((page.url, r.url)))
        page.on(
            "request",
            lambda r: (
                r.url.startswith((address, "data:", "blob:")) or faults.append((page.url, r.url))
            ),
        )
        for width, scheme in ((1300, "light"), (1300, "dark"), (420, "light")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            for name in pages:
                page.goto(address + name)
                faults += [(name, picture) for picture in page.evaluate(BROKEN_PICTURES)]
                if page.evaluate(IS_TOO_WIDE):
                    faults.append((name, f"wider than {width} pixels"))
        assert not faults
        page.set_viewport_size({"width": 1300, "height": 900})
        page.goto(address)
        page.click(".md-search__input")
        page.keyboard.type("replay")
        page.wait_for_selector(".md-search-result__item")
        assert "Replay and keys" in page.inner_text(".md-search-result__list")
        browser.close()
