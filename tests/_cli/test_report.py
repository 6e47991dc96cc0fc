"""`rlscan report`: files of each format, and the page in a browser."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import run_dirs
from PIL import Image

from rlscan._cli.main import main
from rlscan.runs._config import EnvConfig, to_yaml

SLOW = dataclasses.replace(run_dirs.CONFIG.ppo, learning_rate=1e-4)
NAME = "<script>alert(1)</script>&"  # of an algorithm
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def a_run(directory: Path, scale: float, **config: Any) -> Path:
    """Two seeds with a policy and metrics."""
    run_dirs.with_policy(directory, num_seeds=2, **config)
    rows = [
        {"run": i, "seed": i, "update": u, "step": 10 * u, "episode_return": scale * u + i}
        for u in (1, 2, 3)
        for i in (0, 1)
    ]
    session = {"versions": {"jax": "1.2.3"}, "command": ["rlscan", "<b>"], "devices": 7}
    (directory / "run.json").write_text(json.dumps({"sessions": [session, 7]}))
    return run_dirs.add_metrics(directory, rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two runs of different settings."""
    base = tmp_path_factory.mktemp("runs")
    a_run(base / "fast", 2.0)
    a_run(base / "slow", 1.0, ppo=SLOW)
    return base


@pytest.fixture
def two(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the two runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("fast", "slow"):
        (tmp_path / name).symlink_to(runs / name)
    return tmp_path


class Page(HTMLParser):
    """What a page has and loads."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[tuple[str, bytes]] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            found = re.fullmatch(r"data:(image/[a-z+]+);base64,(.*)", value or "")
            if name == "src" and found:
                self.pictures.append((found[1], base64.b64decode(found[2])))
            elif name in ("src", "srcset", "data", "action") or (
                name == "href" and not value.startswith("#")
            ):
                self.loads.append(value)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.slow
def test_tables_are_printed_or_written(two: Path, capsys: pytest.CaptureFixture):
    assert main(["report", "fast", "slow"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("## Returns\n")
    assert "| CartPole-v1 | learning_rate 0.0001 | 2 | 3.5 [3, 4] | 3.5 | 3 |" in printed
    for name in ("a.md", "a.csv", "a.tex"):
        assert main(["report", "fast", "slow", "--output", name, "--label", "slow=mine"]) == 0
        assert capsys.readouterr().out == f"{name}\n"
        assert "mine" in (two / name).read_text()
    assert (two / "a.csv").read_text().startswith("statistic,environment,")
    assert r"\toprule" in (two / "a.tex").read_text()


@pytest.mark.slow
def test_a_page_loads_nothing_and_runs_nothing(two: Path):
    options = ["--label", f"fast={NAME}", "--output", "a.html", "--no-episodes"]
    assert main(["report", "fast", "slow", *options]) == 0
    text = (two / "a.html").read_text()
    page = Page(text)
    assert page.loads == [] and "script" not in page.tags and "url(" not in text
    assert "default-src 'none'" in text  # a browser obeys that
    assert [kind for kind, _ in page.pictures] == ["image/svg+xml"] * 3
    for _, picture in page.pictures:
        assert not re.search(rb'href="(?!#)', picture)  # within itself alone
    shown = "".join(page.text)
    assert NAME in shown and "jax 1.2.3" in shown and "rlscan <b>" in shown
    assert "learning_rate: 0.0001" in shown  # the settings
    assert "Episodes" not in shown


@pytest.mark.slow
def test_foreign_runs_have_a_page_too_and_execute_nothing(two: Path):
    """A user's own loop has other metrics, and no policy that rlscan builds."""
    (own := two / "own").mkdir()
    (own / "metrics.csv").write_text("update,step,episode_return\n1,10,1.0\n2,20,2.0\n")
    (own / "config.yaml").write_text("seed: 3\nrate: 1\n")
    env = EnvConfig(None, class_path="subprocess.Popen", init_args={"args": ["touch", "executed"]})
    run = run_dirs.with_policy(two / "foreign")
    (run / "config.yaml").write_text(to_yaml(dataclasses.replace(run_dirs.CONFIG, env=env)))
    run_dirs.add_metrics(run, [{"update": 1, "step": 10, "episode_return": 1.0}])
    labels = ["--label", "own=A", "--label", "foreign=B"]
    assert main(["report", "own", "foreign", *labels, "--output", "a.html"]) == 0
    shown = "".join(Page((two / "a.html").read_text()).text)
    assert "There is no audit: no metric audit_log_ratio" in shown
    assert "No episode of A, runs: " in shown
    assert "No episode of B, subprocess.Popen: " in shown and "add --allow" in shown
    assert not (two / "executed").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ("nowhere", "nowhere has no metrics.csv; give the directory of a run"),
        ("fast fast", "fast is given twice"),
        ("fast --format html", "--format html needs a file: --output report.html"),
        ("fast --output a.pdf", "--output must end in .md, .csv, .tex or .html, got a.pdf"),
        ("fast --format csv --output a.md", "--output must end in .csv, got a.md"),
        ("fast --output old.md", "old.md exists already; choose another --output"),
        ("fast --label x=y", "--label must be DIR=NAME"),
        ("fast --range CartPole-v1=2", "--range must be ENV=LOW:HIGH, such as CartPole-v1=0:500"),
        ("fast --range CartPole-v1=2:1", "--range must be ENV=LOW:HIGH"),
        ("fast --range Acrobot-v1=0:1", "no run is of the environment Acrobot-v1; there are Cart"),
        ("own", "own: the metrics have no episode_return, which scores a run"),
        ("fast --score evaluation", "fast has no evaluations.csv; train with --eval-interval"),
    ],
)
def test_bad_input_ends_in_one_line(options: str, message: str, two: Path, capsys: Any):
    (two / "old.md").write_text("mine")
    (two / "own").mkdir()
    (two / "own" / "metrics.csv").write_text("step,loss\n10,1.0\n")
    before = sorted(two.iterdir())
    assert main(["report", *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and captured.out == ""
    assert sorted(two.iterdir()) == before and (two / "old.md").read_text() == "mine"


@pytest.mark.slow
def test_a_browser_shows_the_page(two: Path):
    """All its pictures are decoded, the episodes move, and nothing is loaded.

    `RLSCAN_BROWSER` names a browser that takes Chromium's options.
    """
    browser = os.environ.get("RLSCAN_BROWSER") or next(
        filter(None, map(shutil.which, BROWSERS)), ""
    )
    if not browser:
        pytest.skip("no browser is installed")
    assert main(["report", "fast", "slow", "--label", f"fast={NAME}", "--output", "a.html"]) == 0
    text = (two / "a.html").read_text()
    page = Page(text)
    episodes = [picture for kind, picture in page.pictures if kind == "image/gif"]
    assert len(episodes) == 2
    for picture in episodes:
        with Image.open(io.BytesIO(picture)) as image:
            assert image.n_frames > 5  # type: ignore
    # A script of the test's own reads what the page became; the page itself allows none.
    read = "const all = [...document.images].map(x => x.complete && x.naturalWidth > 100);"
    read += "document.title = JSON.stringify([all, performance.getEntriesByType('resource')"
    read += ".filter(x => !x.name.startsWith('data:')).length]);"
    watched = re.sub(r"<meta http-equiv=[^>]*>", "", text)
    watched = watched.replace(
        "</body>", f"<script>window.onload = () => {{{read}}}</script></body>"
    )
    (two / "watched.html").write_text(watched)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    options += [f"--user-data-dir={two / 'profile'}", "--window-size=1000,3000"]

    def browse(*arguments: str) -> str:
        command = [browser, *options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    shown = browse("--dump-dom", (two / "watched.html").as_uri())
    decoded = ",".join(["true"] * len(page.pictures))
    assert f"<title>[[{decoded}],0]</title>" in shown
    browse(f"--screenshot={two / 'page.png'}", (two / "a.html").as_uri())
    with Image.open(two / "page.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24) or []}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # a curve of each algorithm
