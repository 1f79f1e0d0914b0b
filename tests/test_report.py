from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline import paths, report
from pipeline.results import Results
from tests.trained import trained_params

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Outline(HTMLParser):
    """Tags with their attributes, and the text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(evaluated: Path) -> str:
    return report.page(Results(evaluated / paths.EVALUATE), trained_params())


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_captions_are_shown_escaped_and_never_run(page: str, outline: Outline) -> None:
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    assert page.count("A ridge &amp; &lt;script&gt;alert(") == 3
    assert outline.text.count("A ridge & <script>alert(") == 3


def test_nothing_points_outside_of_the_page(page: str, outline: Outline) -> None:
    for tag, attributes in outline.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    without_parameters = re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)  # where an address may stand as text
    assert not re.search(r"url\(|@import|https?:", without_parameters)


def test_the_verdicts_and_the_table_come_first_and_every_section_has_a_heading(outline: Outline) -> None:
    order = [
        "s2kd report",
        "S2-KD against FitNet",
        "Skill by lead time",
        "Training",
        "Maps",
        "Data",
        "How to reproduce",
    ]
    places = [outline.text.index(words) for words in order]
    assert places == sorted(places)
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("h1") == 1
    assert tags.count("section") == tags.count("h2") + 1  # the main table stands under the title itself


def test_every_picture_says_what_it_shows(outline: Outline) -> None:
    drawings = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(drawings) > 20
    assert all(attributes.get("aria-label") or attributes.get("aria-hidden") for attributes in drawings)
    tables = [attributes for tag, attributes in outline.tags if tag == "table"]
    names = {attributes.get("id") for _, attributes in outline.tags}
    assert tables
    assert all(attributes.get("aria-labelledby") in names for attributes in tables)


def test_maps_show_truth_baseline_s2kd_and_teacher_with_errors_and_units(outline: Outline) -> None:
    maps = [
        str(a["aria-label"]) for tag, a in outline.tags if tag == "svg" and str(a.get("aria-label")).startswith("Map")
    ]
    assert len(maps) == 3 * 2 * (4 + 3)
    assert "m² s⁻²" in maps[0]
    for title in ("truth", "U-Net baseline", "U-Net S2-KD", "teacher", "U-Net S2-KD \N{MINUS SIGN} truth"):
        assert sum(f", {title}: from" in text for text in maps) == 3 * 2


def test_the_page_is_under_five_megabytes_even_with_noise_on_a_quarter_degree_grid(evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    noise = np.random.default_rng(0).normal(size=(1, 1, 2, 721, 1440)).astype(np.float32)
    results.fields = {name: np.repeat(noise, 3, axis=0) + number for number, name in enumerate(results.fields)}
    assert 1e6 < len(report.page(results, trained_params()).encode()) < 5e6


def test_the_page_repeats_byte_for_byte(evaluated: Path, page: str) -> None:
    assert report.page(Results(evaluated / paths.EVALUATE), trained_params()) == page


def test_parameters_are_listed_but_not_where_the_work_ran(outline: Outline) -> None:
    assert "lambda: 1.0" in outline.text
    assert "dask_scheduler" not in outline.text


def test_tables_md_holds_the_table_the_verdicts_and_the_definitions(evaluated: Path) -> None:
    text = report.markdown(Results(evaluated / paths.EVALUATE))
    assert "| U-Net S2-KD |" in text
    assert "- U-Net, S2-KD against FitNet: " in text
    assert "- RMSE: root mean squared error in physical units" in text


def console_of(path: Path, folder: Path) -> list[str]:
    """What a browser says on its console when it shows the page."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    logs = ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *options, *logs, f"--screenshot={folder / 'page.png'}", path.as_uri()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in finished.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_page_without_an_error_or_an_outside_request(page: str, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(page)
    assert console_of(path, tmp_path) == []
    assert (tmp_path / "page.png").stat().st_size > 10_000
    # the page's own policy turns any outside request into an error on the console: this test can fail
    path.write_text(page.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png" alt="">'))
    assert any("Content Security Policy" in line for line in console_of(path, tmp_path))
