from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import overlay, params
from pipeline.check import check
from pipeline.datasets import DATASETS
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

PARAMS = """\
# Every parameter.
seed: 42
dataset: weather_twin        # weather_twin, xarray
captioner: narrator
embedder: minilm
teacher: simvp
students: [unet]             # one or more
methods: [baseline, fitnet, s2kd]
beta: 0.5                    # weight of the spectral term

fetch:
  source:                    # a folder
  days: 440                  # simulated days

ingest:
  variables: [a, b]
  splits: {train: 0.7, validation: 0.15, test: 0.15}  # fractions
  t_in: 4                    # input frames

# what the student needs
distill:
  epochs: 100                # at most
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


def merged(target: Path, text: str) -> str:
    path = target.with_name("overlay.yaml")
    path.write_text(text)
    overlay.apply(path, target)
    return target.read_text()


def test_an_overlay_changes_its_values_and_no_other_byte(target: Path) -> None:
    text = merged(target, "beta: 0.7\nstudents: [unet, resnet]\nfetch: {source: data.nc}\ndistill:\n  epochs: 3\n")
    expected = PARAMS
    for old, new in (
        ("beta: 0.5                    #", "beta: 0.7                    #"),
        ("[unet]             #", "[unet, resnet]             #"),
        ("  source:                    #", "  source: data.nc            #"),
        ("  epochs: 100                #", "  epochs: 3                  #"),
    ):
        assert old in expected
        expected = expected.replace(old, new)
    assert [line.split() for line in text.splitlines()] == [line.split() for line in expected.splitlines()]


def test_the_checkouts_own_parameters_pass_through_unchanged(target: Path) -> None:
    own = Path(__file__).parents[1] / "params.yaml"
    target.write_text(own.read_text())
    assert merged(target, "seed: 42\n").splitlines() == own.read_text().splitlines()


def test_an_allowed_key_that_the_file_lacks_joins_its_section(target: Path) -> None:
    text = merged(target, "ingest: {stride: 7}\ndistill: {sizes: {unet: {width: 8}}}\nreport: {title: Mine}\n")
    assert text.count("#") == PARAMS.count("#")
    assert text.index("stride: 7") < text.index("\n# what the student needs")
    loaded = params.load(target)
    assert (loaded.ingest.stride, loaded.distill.sizes, loaded.report.title) == (7, {"unet": {"width": 8}}, "Mine")


def test_the_changed_values_are_returned_by_dotted_key(target: Path) -> None:
    path = target.with_name("overlay.yaml")
    path.write_text("beta: 0.5\ndistill: {epochs: 3}\n")
    assert overlay.apply(path, target) == {"distill.epochs": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("betta: 1\n", ["betta", "overlay.yaml"]),
        ("distill: {epoch: 3}\n", ["distill.epoch", "epochs"]),
        ("beta: -1\n", ["beta", "-1"]),
        ("students: []\n", ["students"]),
        ("- beta\n", ["overlay.yaml", "mapping"]),
        ("beta: [\n", ["overlay.yaml", "YAML"]),
    ],
)
def test_a_mistake_in_the_overlay_is_named_and_nothing_is_written(target: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        merged(target, text)
    assert all(word in str(error.value) for word in words)
    assert target.read_text() == PARAMS
    assert {path.name for path in target.parent.iterdir()} == {"params.yaml", "overlay.yaml"}


def test_a_missing_overlay_is_named(target: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml is missing"):
        overlay.apply(target.with_name("nowhere.yaml"), target)


def test_a_mistake_that_was_there_before_is_not_blamed_on_the_overlay(target: Path) -> None:
    target.write_text(PARAMS.replace("beta: 0.5", "beta: -2"))
    with pytest.raises(UserError) as error:
        merged(target, "seed: 1\n")
    assert "overlay" not in str(error.value)


def test_what_an_overlay_extends_is_merged_first_and_overruled(target: Path) -> None:
    folder = target.with_name("own")
    folder.mkdir()
    target.with_name("base.yaml").write_text("beta: 0.7\nlambda: 0.3\n")
    (folder / "middle.yaml").write_text("extends: ../base.yaml\nseed: 3\n")
    (folder / "top.yaml").write_text("extends: middle.yaml\nbeta: 0.9\n")
    assert overlay.apply(folder / "top.yaml", target) == {"seed": 3, "beta": 0.9, "lambda": 0.3}


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("overlay.yaml", r"overlay\.yaml extends itself, by way of overlay\.yaml"),
        ("nowhere.yaml", r"nowhere\.yaml is missing"),
        ("3", r"overlay\.yaml: extends is 3; the path of another overlay is expected"),
    ],
)
def test_an_overlay_that_cannot_be_built_on_is_named(target: Path, extends: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        merged(target, f"extends: {extends}\nbeta: 0.9\n")
    assert target.read_text() == PARAMS


SCALES = ("quick", "paper")


def _overlays() -> list[Path]:
    return sorted(path for scale in SCALES for path in (ROOT / "experiments" / scale).glob("*.yaml"))


def test_every_data_set_of_a_benchmark_has_an_overlay_at_both_scales() -> None:
    for scale in SCALES:
        names = {path.stem for path in (ROOT / "experiments" / scale).glob("*.yaml")}
        assert names == set(DATASETS) - {"xarray"}  # any files at all: there is no setting for them


@pytest.fixture(scope="module")
def after_all(tmp_path_factory: pytest.TempPathFactory) -> str:
    """params.yaml after every ready setting in turn."""
    target = tmp_path_factory.mktemp("overlays") / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    for path in _overlays():
        overlay.apply(path, target)
    return target.read_text()


@pytest.mark.parametrize("path", _overlays(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_ready_setting_is_accepted_whatever_was_applied_before(path: Path, tmp_path: Path, after_all: str) -> None:
    fresh, used = tmp_path / "fresh.yaml", tmp_path / "used.yaml"
    fresh.write_text((ROOT / "params.yaml").read_text())
    used.write_text(after_all)
    overlay.apply(path, fresh)
    overlay.apply(path, used)
    loaded = params.load(fresh)
    check(loaded)
    assert loaded.dataset == path.stem
    again = params.load(used)
    ignored = {"days", "spin_up_days", "fire"}  # of the twins that are not chosen
    assert loaded.fetch.model_dump(exclude=ignored) == again.fetch.model_dump(exclude=ignored)
    assert loaded.model_dump(exclude={"fetch"}) == again.model_dump(exclude={"fetch"})


def test_the_quick_weather_twin_is_the_default(tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    assert overlay.apply(ROOT / "experiments/quick/weather_twin.yaml", target) == {}
