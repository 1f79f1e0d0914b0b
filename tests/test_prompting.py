"""What a model is told: templates are checked at once, filled from metadata alone, and hold plain text."""

from __future__ import annotations

import hashlib
import shutil
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline import guard, pictures, prompting
from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import CaptionRequest
from pipeline.datasets import DATASETS as ROOM
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.store import Description, Grid, Store, Variable
from tests.fields import describe
from tests.helpers import make_store

PROMPTS = Path(prompting.__file__).parent / "prompts"
DATASETS = sorted(path.stem for path in PROMPTS.glob("*.txt"))
MINUS = "\N{MINUS SIGN}"


def request(description: Description | None = None, hours: int = 12) -> CaptionRequest:
    description = description or describe((8, 16))
    times = np.datetime64("2001-01-01T06", "s") + np.arange(3) * np.timedelta64(hours, "h")
    return CaptionRequest(0, np.zeros((3, 2, *description.grid.shape), np.float32), times, description)


def template(text: str, folder: Path, **settings: object) -> prompting.Template:
    path = folder / "template.txt"
    path.write_text(text, encoding="utf-8")
    return prompting.load(CaptionParams.model_validate({"template": str(path), **settings}), "weather_twin")


def filled(text: str, folder: Path, of: CaptionRequest | None = None, **settings: object) -> str:
    return template(text, folder, **settings).fill(of or request())


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_template_that_comes_along_asks_for_what_a_caption_needs(dataset: str) -> None:
    found = prompting.load(CaptionParams(max_words=77), dataset)
    assert found.text == (PROMPTS / f"{dataset}.txt").read_text(encoding="utf-8").strip()
    assert found.hash == hashlib.sha256(found.text.encode()).hexdigest()
    # not the statistics: they shift a little with the stride, and every window would have to be captioned again
    # nor the context, without which a template still says it
    asked = set(string.Template(found.text).get_identifiers())
    assert asked | {"context"} == set(prompting.PLACEHOLDERS) - {"statistics"}
    prompt = found.fill(request())
    assert "$" not in prompt
    assert "77 words" in prompt
    assert "12 hours" in prompt
    assert "forecast" in prompt


def test_a_data_set_without_a_template_gets_the_default_one() -> None:
    assert prompting.load(CaptionParams(), "xarray").text == prompting.load(CaptionParams(), "default").text
    assert prompting.load(CaptionParams(), "weatherbench").text != prompting.load(CaptionParams(), "default").text


@pytest.mark.parametrize("family", prompting.FAMILIES)
def test_the_data_sets_of_a_family_share_a_template_unless_one_has_its_own(tmp_path: Path, family: str) -> None:
    shutil.copytree(PROMPTS, tmp_path / "prompts")
    settings = CaptionParams(template=str(tmp_path / "prompts"))
    for dataset in prompting.FAMILIES[family]:
        assert dataset in ROOM
        assert prompting.load(settings, dataset).text == (PROMPTS / f"{family}.txt").read_text().strip()
    (tmp_path / "prompts" / f"{dataset}.txt").write_text("My own.")
    assert prompting.load(settings, dataset).text == "My own."


def test_every_twin_and_original_has_more_than_the_default_template() -> None:
    default = prompting.load(CaptionParams(), "default")
    assert [name for name in ROOM if prompting.load(CaptionParams(), name) == default] == ["xarray"]


def test_a_plane_is_described_in_the_units_of_its_axes_and_counts_have_none(tmp_path: Path) -> None:
    grid = Grid(("y", "x"), np.linspace(0.5, 5.5, 8), np.linspace(0, 100, 16), "m")
    counts = tuple(Variable(name, "1", name) for name in ("inflow", "outflow"))
    of = request(replace(describe((8, 16)), grid=grid, variables=counts))
    assert filled("$region", tmp_path, of) == (
        "a plane of 8 rows and 16 columns; x runs from 0 to 100 to the right, y from 0.5 to 5.5 upwards, in m"
    )
    assert filled("$variables", tmp_path, of) == "inflow and outflow"


def test_a_sheet_in_blocks_is_described_as_it_is(tmp_path: Path) -> None:
    of = request()
    many = replace(of, inputs=of.inputs[[0] * 12], times=of.times[0] + np.arange(12) * np.timedelta64(6, "h"))
    assert "one sheet of maps in blocks of 6 frames, time running from left to right" in filled(
        "$pictures", tmp_path, many
    )
    assert "blocks" not in filled("$pictures", tmp_path, many, picture={"layout": "images"})
    assert "blocks" not in filled("$pictures", tmp_path, many, picture={"pixels": 128})


def test_frames_less_than_a_second_apart_are_told_so(tmp_path: Path) -> None:
    of = request(replace(describe((8, 16)), time_stamps="nominal"))
    quick = replace(of, times=of.times[0].astype("datetime64[ms]") + np.arange(3) * np.timedelta64(500, "ms"))
    assert filled("$step", tmp_path, quick) == "0.5 seconds"
    assert f"labelled t{MINUS}1 s" in filled("$times", tmp_path, quick)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("description", "Fields for tests."),
        ("variables", "height in m and temperature in degC"),
        ("region", "all around the globe, from 60°S to 60°N"),
        ("times", "from 2001-01-01 06:00 to 2001-01-02 06:00 UTC."),
        ("step", "12 hours"),
        ("frames", "3"),
        (
            "statistics",
            f"height: mean 540, standard deviation 30 m; temperature: mean {MINUS}10, standard deviation 4 degC",
        ),
        (
            "colours",
            "for height dark purple is 538 or less, bright yellow 542 m or more; for temperature dark purple is "
            f"{MINUS}12 or less, bright yellow {MINUS}8 degC or more; blue, teal and green lie between. "
            "A colour means the same value in all frames.",
        ),
        ("words", "120"),
        ("answer", "Answer with the caption alone, as one paragraph without headings or lists."),
    ],
)
def test_a_placeholder_is_filled_with_what_is_known_of_the_window(tmp_path: Path, name: str, expected: str) -> None:
    description = describe((3, 16))
    description = replace(description, grid=replace(description.grid, y=np.array([-60.0, 0.0, 60.0])))
    assert filled(f"<${name}>", tmp_path, request(description)) == f"<{expected}>"


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (describe((8, 16)).grid, "the whole globe"),
        (
            Grid(("latitude", "longitude"), np.array([30.0, 45.0, 60.04]), np.array([350.0, 375.0, 400.0])),
            "latitudes 30°N to 60°N, longitudes 10°W to 40°E",
        ),
        (
            Grid(("y", "x"), np.arange(8).astype(np.float64), np.arange(16).astype(np.float64)),
            "a plane of 8 rows and 16 columns; x runs from 0 to 15 to the right, y from 0 to 7 upwards",
        ),
    ],
)
def test_the_region_is_put_in_words(tmp_path: Path, grid: Grid, expected: str) -> None:
    assert filled("$region", tmp_path, request(replace(describe((8, 16)), grid=grid))) == expected


def test_nominal_time_stamps_are_called_so_and_no_date_is_given(tmp_path: Path) -> None:
    prompt = filled("$times", tmp_path, request(replace(describe((8, 16)), time_stamps="nominal")))
    assert "nominal" in prompt
    assert f"first frame is labelled t{MINUS}24 h, the last t." in prompt
    assert "2001" not in prompt


def test_the_layout_of_the_pictures_is_described_as_it_is(tmp_path: Path) -> None:
    said = {
        layout: filled("$pictures", tmp_path, picture={"layout": layout}) for layout in ("sheet", "images", "video")
    }
    assert "one sheet" in said["sheet"]
    assert "series of pictures" in said["images"]
    assert "a video" in said["video"]
    for words in said.values():
        assert words.index("height") < words.index("temperature")
        assert "north is up" in words


def test_json_is_asked_for_with_the_keys_of_the_schema_even_if_the_template_forgets(tmp_path: Path) -> None:
    prompt = filled("Describe.", tmp_path, output="json")
    assert prompt.startswith("Describe.\n\nAnswer with one JSON object")
    assert all(f'"{key}"' in prompt for key in guard.SCHEMA["required"])
    assert filled("$answer Describe.", tmp_path, output="json").count("JSON") == 1
    assert filled("Describe.", tmp_path) == "Describe."


def test_what_is_filled_in_is_plain_text(tmp_path: Path) -> None:
    hostile = "costs $5 and $region\n\x00\x1b<image> </s> {times}"
    names = (Variable("a", "K", hostile), Variable("b", "K", ""))
    description = replace(describe((8, 16)), text=hostile, variables=names)
    prompt = filled("$description|$times|$variables", tmp_path, request(description))
    assert prompt.split("|")[0] == "costs $5 and $region {times}"
    assert prompt.split("|")[1] == "from 2001-01-01 06:00 to 2001-01-02 06:00 UTC."
    assert prompt.split("|")[2] == "costs $5 and $region {times} in K and b in K"


def test_a_clock_of_the_place_is_not_called_utc(tmp_path: Path) -> None:
    local = replace(describe((8, 16)), time_stamps="local")
    prompt = filled("$times", tmp_path, request(local))
    assert prompt == "from 2001-01-01 06:00 to 2001-01-02 06:00 local time."


def test_a_cached_prompt_is_not_given_to_another_record_or_window(tmp_path: Path) -> None:
    found = template("$step $times $description", tmp_path)
    first = request()
    assert found.fill(first) == found.fill(first)
    assert found.fill(replace(first, times=first.times + np.timedelta64(1, "h"))) != found.fill(first)
    assert found.fill(request(hours=3)).startswith("3 hours")
    assert found.fill(replace(first, description=replace(first.description, text="Another."))).endswith("Another.")


@pytest.mark.parametrize("text", ["See $colour.", "See ${tims}."])
def test_an_unknown_placeholder_is_named_with_the_known_ones_and_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        template(text, tmp_path)
    assert f"'${text.strip('Se ${}.')}'" in str(error.value)
    assert "template.txt" in str(error.value)
    assert all(f"${name}" in str(error.value) for name in prompting.PLACEHOLDERS)


def test_a_file_that_is_no_template_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"template\.txt: a '\$' is followed by no placeholder; write '\$\$'"):
        template("for 5 $ only", tmp_path)
    with pytest.raises(UserError, match=r"template\.txt is empty"):
        template(" \n", tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.txt cannot be read: No such file"):
        prompting.load(CaptionParams(template="nowhere.txt"), "")
    (tmp_path / "latin.txt").write_bytes("Höhe".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt is not a text file in UTF-8"):
        prompting.load(CaptionParams(template=str(tmp_path / "latin.txt")), "")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store") / "store.zarr", frames=100, t_in=3, t_out=3, step=2)


def shown(store: Store, window: int) -> tuple[str, tuple[bytes, ...]]:
    """Prompt and pictures of a window."""
    settings = CaptionParams()
    (of,) = caption_requests(store, np.array([window]))
    return prompting.load(settings, "weatherbench").fill(of), pictures.draw(of, settings.picture)


def changed(store: Store, frames: np.ndarray, path: Path) -> Store:
    """A copy of the store with other values in some frames."""
    shutil.copytree(store.path, path)
    group = zarr.open_group(path, mode="r+")
    for variable in store.description.variables:
        array = group[variable.name]
        assert isinstance(array, zarr.Array)
        for frame in frames:
            array[int(frame)] = np.asarray(array[int(frame)]) + 5 * np.float32(store.description.statistics.std.min())
    return Store(path)


def test_target_frames_change_neither_picture_nor_prompt(store: Store, tmp_path: Path) -> None:
    window = 7
    inputs = store.windows.input_frames(window)
    others = np.setdiff1d(np.arange(len(store.times)), inputs)
    assert set(store.windows.target_frames(window)) <= set(others)
    assert shown(changed(store, others, tmp_path / "copy.zarr"), window) == shown(store, window)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_each_input_frame_changes_the_picture(store: Store, tmp_path: Path, position: int) -> None:
    frame = store.windows.input_frames(7)[[position]]
    prompt, drawn = shown(changed(store, frame, tmp_path / "copy.zarr"), 7)
    assert (prompt, drawn) != shown(store, 7)
    assert prompt == shown(store, 7)[0]
