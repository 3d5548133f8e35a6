"""The book: built without a warning, complete in itself; and its explorer in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest

from common.base.paths import ROOT

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
EXPLORER = "docs/explorer.html"


class Page(HTMLParser):
    """What a page loads, where its links lead, and its anchors."""

    LOADED = (
        *(("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")),
        *(("source", "src"), ("video", "src"), ("object", "data"), ("embed", "src")),
    )

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.loads |= {given[name] for of, name in self.LOADED if of == tag and given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("myst_nb", reason="requirements-docs.txt is not installed")
    home = tmp_path_factory.mktemp("book")
    options = ["-q", "-W", "--keep-going", "-c", "docs", "-d", str(home / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(home / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return home / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_and_executed_notebook_is_in_the_book(pages, site):
    ours = [*ROOT.glob("*/**/README.md"), *ROOT.glob("*/**/*rendered.ipynb"), ROOT / "README.md"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    names = {path.relative_to(ROOT).as_posix() for path in ours} & set(listed.splitlines())
    assert len(names) > 15
    for name in names:
        assert (site / name).with_suffix(".html") in pages, name
    assert (site / "index.html").read_text() == (site / "README.html").read_text()


def test_every_link_and_anchor_leads_somewhere_and_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert link not in page.loads or parts.scheme == "data", f"{path}: loads {link}"
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert found.is_file(), f"{path}: {link}"
            if parts.fragment and found in pages:
                assert unquote(parts.fragment) in pages[found].anchors, f"{path}: {link}"


def test_styles_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), path


def test_the_explorer_and_all_it_loads_are_less_than_two_megabytes(pages, site):
    page = site / EXPLORER
    loaded = {(page.parent / urlsplit(name).path).resolve() for name in pages[page].loads}
    assert sum(path.stat().st_size for path in {page, *loaded}) < 2e6


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=found)
        yield running
        running.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_a_reader_chooses_a_method_reads_a_value_and_follows_its_link(site, browser, width):
    context = browser.new_context(viewport={"width": width, "height": 900}, has_touch=width < 500)
    page = context.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((site / EXPLORER).as_uri())
    page.wait_for_selector("[data-drawn]")
    data = json.loads(page.locator("#explorer-data").text_content())
    chosen = {name: page.locator(f"[name={name}]").input_value() for name in ("dataset", "model")}
    chosen["protocol"], epochs = page.locator("[name=schedule]").input_value().split(", ")
    chosen["epochs"] = int(epochs.split()[0])
    plain = {"ablation": "none", "variant": "", **chosen}
    cells = [c for c in data["cells"] if plain.items() <= c.items() and c["method"] != "dense"]
    method = cells[0]["method"]
    for box in page.locator("[name=methods]").all():
        box.set_checked(box.get_attribute("value") == method)
    hits = "#accuracy .layer_5_marks path"
    page.wait_for_function(
        "([hits, count]) => document.querySelectorAll(hits).length === count",
        arg=[hits, sum(cell["method"] == method for cell in cells)],
    )
    mark = page.locator(hits).first
    (mark.tap if width < 500 else mark.hover)()
    told = page.locator("#run").inner_text()
    removed = float(re.search(r"([\d.]+)% removed", told)[1]) / 100
    runs = pd.concat(pd.read_csv(path) for path in ROOT.glob("figures/results/*/summary.csv"))
    for name, value in {**plain, "method": method}.items():
        runs = runs[runs[name].fillna("") == value]
    runs = runs[runs["sparsity"].sub(removed).abs() < 1e-6]
    mean = runs.drop_duplicates("seed")["test_accuracy"].mean()
    assert f"\n{mean:.2f}" in told
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    again = context.new_page()
    again.goto(page.url)
    again.wait_for_selector("#run strong")
    assert again.locator("#run").inner_text() == told
    page.locator("#run a").click()
    page.wait_for_url(f"**/trials/{method}/rendered.html")
    assert page.locator("h1").is_visible()
    assert not errors
    assert all(url.startswith(("file:", "data:")) for url in requests)
