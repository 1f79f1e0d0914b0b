from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import overlay, params
from pipeline.errors import UserError

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
