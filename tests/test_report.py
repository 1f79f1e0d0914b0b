from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline import browser, highlight, latex, maps, paths, report
from pipeline.results import Results
from tests.browser import CHROMIUM, Page, opened
from tests.rewritten import with_int8
from tests.trained import trained_params

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


class Outline(HTMLParser):
    """Tags with their attributes, and the text outside of style sheets and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.text += data
        if self.tags and self.tags[-1][0] in ("h1", "h2") and data.strip():
            self.headings.append(data)


@pytest.fixture(scope="module")
def page(evaluated: Path) -> str:
    return report.page(Results(evaluated / paths.EVALUATE), trained_params())


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_captions_are_shown_escaped_and_never_run(page: str, outline: Outline) -> None:
    scripts = [attributes for tag, attributes in outline.tags if tag == "script"]
    assert [attributes.get("type") for attributes in scripts] == ["application/json", None]
    assert page.count("A ridge &amp; &lt;script&gt;alert(") == 3
    assert outline.text.count("A ridge & <script>alert(") == 3
    assert page.count("A ridge \\u0026 \\u003cscript\\u003ealert(") == 3  # for the window browser


def test_no_text_can_end_the_script_element_that_holds_it() -> None:
    tree = {"caption": "</script><!-- <script>alert(1)</script> & \N{LINE SEPARATOR}"}
    text = report.embedded(tree)
    assert not set("<>&\N{LINE SEPARATOR}") & set(text)
    assert json.loads(text) == tree


def test_nothing_points_outside_of_the_page(page: str, outline: Outline) -> None:
    for tag, attributes in outline.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    without_parameters = re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)  # where an address may stand as text
    assert not re.search(r"url\(|@import|https?:|\bfetch\(|XMLHttpRequest|import\(", without_parameters)


def test_the_verdicts_and_the_table_come_first_and_every_section_has_a_heading(outline: Outline) -> None:
    first = [outline.text.index(words) for words in ("s2kd report", "U-Net, S2-KD: ", "share of lead", "Reliability")]
    assert first == sorted(first)
    assert "S2-KD against FitNet" in outline.text
    assert outline.headings == [
        "s2kd report",
        "How far the claim can be trusted",
        "Skill by lead time",
        "Maps",
        "Window browser",
        "Sharpness",
        "Extremes",
        "Roll-out",
        "Training",
        "Data",
        "How to reproduce",
    ]
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
    assert all(a.get("aria-labelledby") in names or a.get("aria-label") for a in tables)
    assert all(attributes.get("alt") for tag, attributes in outline.tags if tag == "img")
    targets = [str(a["href"])[1:] for tag, a in outline.tags if tag == "a"]
    assert set(targets) <= names


def test_maps_show_truth_baseline_s2kd_and_teacher_with_errors_and_units(outline: Outline) -> None:
    labels = [str(a["aria-label"]) for tag, a in outline.tags if tag == "svg" and a.get("role") == "img"]
    shown = [label for label in labels if label.startswith("Map")]
    assert len(shown) == 3 * 2 * (4 + 3)
    assert "m² s⁻²" in shown[0]
    for title in ("truth", "U-Net baseline", "U-Net S2-KD", "teacher", "U-Net S2-KD \N{MINUS SIGN} truth"):
        assert sum(f", {title}: from" in text for text in shown) == 3 * 2
    enlarged = [str(a["alt"]) for tag, a in outline.tags if tag == "img"]
    assert len(enlarged) == 3 * 2 * 4
    assert sum("detail kept" in text for text in enlarged) == 3 * 2 * 3
    assert highlight.RULE in outline.text


def test_the_page_is_under_five_megabytes_even_with_noise_on_a_quarter_degree_grid(evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=(1, 1, 2, 721, 1440)).astype(np.float32) for name in results.fields}
    results.fields = {name: np.repeat(field, 3, axis=0) for name, field in noise.items()}
    results.setup["t_out"] = 1
    results.setup["grid"] |= {"y": np.linspace(-90, 90, 721).tolist(), "x": (np.arange(1440) / 4).tolist()}
    assert 2e6 < len(report.page(results, trained_params()).encode()) < 5e6


def test_windows_are_left_out_where_a_page_cannot_hold_them_all(evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    grid = maps.grid_of(results)
    rng = np.random.default_rng(0)
    many = {name: rng.normal(size=(400, *field.shape[1:])).astype(np.float32) for name, field in results.fields.items()}
    results.fields = many
    results.examples = [results.examples[0] | {"window": number} for number in range(400)]
    payload = browser.payload(results, grid)
    numbers = [window["number"] for window in payload["windows"]]
    assert 50 < len(numbers) < 400
    assert browser.characters([payload["truth"], payload["errors"]]) <= browser.BUDGET
    assert len(set(np.diff(numbers))) <= 2  # evenly spaced
    assert len(maps.examples(results)) == 3


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
    assert text.count("better than the same student's baseline") == 1


def test_page_markdown_and_latex_tell_what_8_bits_cost(evaluated: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated / paths.EVALUATE, tmp_path / "evaluate")
    results = with_int8(tmp_path / "evaluate")
    documents = report.page(results, trained_params()), report.markdown(results)
    for text in documents:
        assert "U-Net S2-KD, int8, seed 43" in text
        assert "U-Net S2-KD, seed 43, int8 against float32: worse" in text
    assert "int8.json" in documents[0]
    text = latex.document([("weather_twin", results)], "simvp")
    assert "& S2-KD, int8, seed 43 & -- & -- & 0.7500 &" in text
    assert r"(95 \% interval +0.12500 to +0.37500); +50.00 \% of float32's MSE." in text


def decoded(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """What report.js makes of a text: levels, rows from south to north."""
    changes = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).reshape(shape)
    return np.cumsum(changes, axis=-1, dtype=np.uint8)


def test_the_browsers_bytes_give_truth_and_forecast_back_within_half_a_step(evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    payload = browser.payload(results, maps.grid_of(results))
    names = [model["name"] for model in payload["models"]]
    assert names == ["teacher", "vision teacher", "U-Net baseline", "U-Net FitNet", "U-Net S2-KD"]
    fields = results.fields
    shape = fields["truth"].shape[1:2] + fields["truth"].shape[-2:]
    for index, scale in enumerate(payload["variables"]):
        span, bound = scale["high"] - scale["low"], scale["bound"]
        truth = scale["low"] + decoded(payload["truth"][1][index], shape) / 255 * span
        np.testing.assert_allclose(truth, fields["truth"][1, :, index], atol=span / 255 * 0.51)
        error = -bound + decoded(payload["errors"][4][1][index], shape) / 254 * 2 * bound
        expected = fields["unet s2kd"][1, :, index] - fields["truth"][1, :, index]
        np.testing.assert_allclose(error, expected, atol=bound / 254 * 1.02)


def test_the_boxes_lie_where_the_truth_is_busiest_whatever_the_forecasts(evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    before = [each.box for example in maps.examples(results) for each in example.maps]
    fields = results.fields
    results.fields = {name: field if name == "truth" else field[::-1] * 0 for name, field in fields.items()}
    assert [each.box for example in maps.examples(results) for each in example.maps] == before


@pytest.fixture(scope="module")
def shown(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page as a browser shows it, with its window browser drawn."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "index.html").write_text(page)
    with opened(folder / "index.html", folder / "profile") as browser_page:
        browser_page.until("document.getElementById('browser').dataset.drawn !== undefined")
        yield browser_page


@in_a_browser
def test_a_browser_shows_the_page_without_an_error_or_an_outside_request(
    page: str, shown: Page, tmp_path: Path
) -> None:
    assert shown.messages == []
    assert {address.partition(":")[0] for address in shown.requests} <= {"file", "data"}
    assert sum(address.startswith("file") for address in shown.requests) == 1
    # the policy turns an outside request or another script into an error on the console: this test can fail
    foreign = '<main id="main"><img src="http://127.0.0.1:9/x.png" alt=""><script>document.title = "run"</script>'
    (tmp_path / "index.html").write_text(page.replace('<main id="main">', foreign))
    with opened(tmp_path / "index.html", tmp_path / "profile") as other:
        other.until("document.getElementById('browser').dataset.drawn !== undefined")
        assert sum("Content Security Policy" in message for message in other.messages) == 2
        assert other.run("document.title") == "s2kd report"


@in_a_browser
def test_a_caption_of_a_script_stays_text(shown: Page) -> None:
    assert shown.run("document.querySelectorAll('script').length") == 2
    caption = shown.run("document.querySelector('[data-part=caption]').textContent")
    assert re.fullmatch(r"A ridge & <script>alert\('\d+'\)</script>", caption)
    assert shown.run("document.querySelectorAll('blockquote *').length") == 0


COLUMN = "[...document.querySelector('#main-table + .scroll tbody').rows].map((row) => row.cells[1].textContent)"
HEAD = "document.querySelector('#main-table + .scroll thead').rows[0].cells[1]"


@in_a_browser
def test_tables_sort_by_click_and_by_key_and_say_so(shown: Page) -> None:
    before = shown.run(COLUMN)
    assert shown.run(f"{HEAD}.getAttribute('aria-sort')") == "none"
    shown.run(f"{HEAD}.querySelector('button').click()")
    assert shown.run(f"{HEAD}.getAttribute('aria-sort')") == "ascending"
    numbers = [float(cell.split()[0]) for cell in shown.run(COLUMN)]
    assert numbers == sorted(numbers)
    assert numbers != [float(cell.split()[0]) for cell in before]
    shown.run(f"{HEAD}.querySelector('button').focus()")
    shown.press("Enter")
    assert shown.run(f"{HEAD}.getAttribute('aria-sort')") == "descending"
    assert [float(cell.split()[0]) for cell in shown.run(COLUMN)] == sorted(numbers, reverse=True)
    shown.press("Enter")
    assert shown.run(COLUMN) == before
    parameters, cells = (text.replace("cells[1]", "cells[4]") for text in (HEAD, COLUMN))
    for _ in range(2):  # up and down
        shown.run(f"{parameters}.querySelector('button').click()")
        assert shown.run(cells)[-2:] == 2 * ["\N{EN DASH}"]  # what has no number stays at the end
    shown.run(f"{parameters}.querySelector('button').click()")


@in_a_browser
def test_the_window_browser_is_driven_by_keys_and_shows_what_was_forecast(shown: Page, evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    second, variable = results.examples[1]["window"], results.setup["variables"][1]["name"]
    shown.run(f"location.hash = 'window={second}&lead=1&variable={variable}'")
    shown.until("document.getElementById('browser').dataset.drawn.startsWith('1 0 1 ')")
    assert f"Window {second}: " in shown.run("document.querySelector('[data-part=status]').textContent")
    assert f"'{second}'" in shown.run("document.querySelector('[data-part=caption]').textContent")
    shown.run("document.querySelector('[data-part=lead]').focus()")
    shown.press("ArrowRight")
    shown.until("document.getElementById('browser').dataset.drawn.startsWith('1 1 1 ')")
    assert shown.run("location.hash") == f"#window={second}&lead=2&variable={variable}"
    shown.run("document.querySelector('[data-part=errors] canvas').focus()")
    for key in ("ArrowUp", "ArrowLeft"):
        shown.press(key)
    told = shown.run("document.querySelector('[data-part=readout]').textContent").replace("\N{MINUS SIGN}", "-")
    rows, columns = results.fields["truth"].shape[-2:]
    cell = (1, 1, 1, rows // 2 + 1, columns // 2 - 1)
    truth, forecast = (float(results.fields[name][cell]) for name in ("truth", "unet s2kd"))
    found = re.search(r"truth ([-\d.]+), .*U-Net S2-KD ([-\d.]+) \(([-+\d.]+)\)", told)
    assert found is not None
    assert float(found[1]) == pytest.approx(truth, abs=0.5)
    assert float(found[2]) == pytest.approx(forecast, abs=0.7)
    assert float(found[3]) == pytest.approx(forecast - truth, abs=0.2)


@in_a_browser
def test_a_drawn_map_has_the_colours_of_the_truth_with_north_at_the_top(shown: Page, evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    variable = results.setup["variables"][0]["name"]
    shown.run(f"location.hash = 'window={results.examples[0]['window']}&lead=1&variable={variable}'")
    shown.until("document.getElementById('browser').dataset.drawn.startsWith('0 0 0 ')")
    canvas = "document.querySelector('[data-part=fields] canvas')"
    pixels = shown.run(f"[...{canvas}.getContext('2d').getImageData(0, 0, {canvas}.width, {canvas}.height).data]")
    truth = results.fields["truth"][0, 0, 0]
    whole = results.fields["truth"][:, :, 0]
    from matplotlib import colormaps

    expected = colormaps["viridis"]((truth[::-1] - whole.min()) / np.ptp(whole), bytes=True)
    drawn = np.array(pixels).reshape(*truth.shape, 4)
    np.testing.assert_allclose(drawn, expected.astype(int), atol=4)


@in_a_browser
def test_without_scripts_the_still_maps_are_there_and_the_browser_is_not(page: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(page)
    with opened(tmp_path / "index.html", tmp_path / "profile", scripts=False) as still:
        assert still.run("document.getElementById('browser').hidden")
        assert not still.run("document.getElementById('no-browser').hidden")
        assert still.run("document.querySelectorAll('.map image').length") == 3 * 2 * (4 + 3)


@in_a_browser
def test_a_narrow_screen_scrolls_tables_and_not_the_page(page: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(page)
    with opened(tmp_path / "index.html", tmp_path / "profile") as narrow:
        narrow.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
        narrow.until("innerWidth === 400")
        assert narrow.run("document.documentElement.scrollWidth") <= 400
