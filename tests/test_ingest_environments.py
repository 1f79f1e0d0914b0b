"""Splits by environment, held against the raw files: which simulation and frame every window of the store reads.

Each value on disk tells its simulation and its frame, so that what a window reads can be traced back without
anything that the stage wrote about it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.datasets.prometheus import Prometheus
from pipeline.errors import UserError
from pipeline.ingest import STORE, ingest
from pipeline.store import SPLITS, Store
from tests.fires import write_environments, write_hdf5
from tests.helpers import tiny_params

SHAPE = (3, 4)
LENGTHS = (9, 5, 14, 7, 8, 6, 11, 7, 9, 10, 3, 12)
NAMES = [f"run{number:02d}" for number in range(len(LENGTHS))]
POWER = {"calm": 5.0, "middle": 10.0, "strong": 20.0, "extreme": 40.0}
OF = {name: list(POWER)[number % len(POWER)] for number, name in enumerate(NAMES)}
WINDOW: dict[str, Any] = {"t_in": 2, "t_out": 1, "step": 2, "stride": 2}  # spans 5 frames


class Read(NamedTuple):
    """What a window reads, by the values themselves."""

    split: str
    simulation: str
    frames: tuple[int, ...]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve simulations of 3 to 14 frames in four environments; a value is 1000 * simulation + frame + noise."""
    rng = np.random.default_rng(0)
    for number, (name, frames) in enumerate(zip(NAMES, LENGTHS, strict=True)):
        values = 1000 * number + np.arange(frames)[:, None, None] + rng.uniform(0.1, 0.9, (frames, *SHAPE))
        write_hdf5(tmp_path / "raw" / f"{name}.h5", {"temperature": values.astype("f4")}, interval=0.25)
    write_environments(tmp_path / "raw", OF, POWER)
    return tmp_path / "raw"


def ingested(raw: Path, **settings: Any) -> Store:
    given = {"variables": ["temperature"], "splits": {"train": 0.5, "validation": 0.25, "test": 0.25}, **WINDOW}
    params = tiny_params(dataset="prometheus", ingest={**given, **settings})
    source = Prometheus(params.fetch, params.ingest, params.seed)
    folder = raw.parent / f"ingested{len(list(raw.parent.iterdir()))}"
    folder.mkdir()
    ingest(source.open(raw), params.ingest, folder, source.time_stamps, source.description)
    return Store(folder / STORE)


def values_of(store: Store) -> NDArray[np.float32]:
    return np.asarray(store.array("temperature")[:])


def reads(store: Store) -> list[Read]:
    values, windows = values_of(store), store.windows
    found = []
    for window in range(len(windows)):
        frames = values[[*windows.input_frames(window), *windows.target_frames(window)]]
        told = np.floor(frames).reshape(len(frames), -1).astype(int)
        assert (told == told[:, :1]).all()
        simulation, frame = np.divmod(told[:, 0], 1000)
        assert len(set(simulation)) == 1, "the window crosses simulations"
        found.append(Read(SPLITS[windows.split[window]], NAMES[simulation[0]], tuple(frame)))
    return found


def possible(names: list[str]) -> set[tuple[str, tuple[int, ...]]]:
    """Every window that the simulations have room for."""
    return {
        (name, (start, start + 2, start + 4))
        for name in names
        for start in range(0, LENGTHS[NAMES.index(name)] - 4, WINDOW["stride"])
    }


def check(store: Store, seen: set[str], unseen: set[str]) -> None:
    """All that a split by environment promises, window by window."""
    found = reads(store)
    splits_of = {name: {read.split for read in found if read.simulation == name} for name in NAMES}
    assert all(len(splits) <= 1 for splits in splits_of.values()), "a simulation lies in two splits"
    used = [name for name in NAMES if OF[name] in seen | unseen]
    assert len(found) == len({read[1:] for read in found})
    assert {read[1:] for read in found} == possible(used)
    for read in found:
        assert OF[read.simulation] in seen or read.split == "test"
    for split in SPLITS:
        assert any(read.split == split for read in found if OF[read.simulation] in seen)
    listed = {environment.name: environment for environment in store.environments}
    assert {name for name, environment in listed.items() if environment.seen} == seen
    assert {name for name, environment in listed.items() if not environment.seen} == unseen
    assert all(listed[name].parameters == {"heat_release_rate_MW": POWER[name]} for name in listed)
    of_window = store.window_environment
    assert of_window is not None
    assert [store.environments[number].name for number in of_window] == [OF[read.simulation] for read in found]


@pytest.mark.parametrize(
    ("chosen", "seen", "unseen"),
    [
        ({}, set(POWER), set()),
        ({"unseen": ["extreme"]}, {"calm", "middle", "strong"}, {"extreme"}),
        ({"unseen": {"heat_release_rate_MW": [15, 100]}}, {"calm", "middle"}, {"strong", "extreme"}),
        ({"seen": {"heat_release_rate_MW": [0, 20]}, "unseen": ["extreme"]}, {"calm", "middle", "strong"}, {"extreme"}),
        ({"seen": ["calm", "middle"], "unseen": ["extreme"]}, {"calm", "middle"}, {"extreme"}),
        ({"seen": ["strong", "middle", "calm"]}, {"calm", "middle", "strong"}, set()),
    ],
)
def test_every_window_lies_in_one_simulation_and_where_its_environment_may(
    raw: Path, chosen: dict[str, Any], seen: set[str], unseen: set[str]
) -> None:
    check(ingested(raw, environments=chosen), seen, unseen)


def test_the_check_sees_a_window_that_crosses_two_simulations(raw: Path) -> None:
    store = ingested(raw)
    store.windows.start[0] = LENGTHS[0] - 2
    with pytest.raises(AssertionError, match="crosses simulations"):
        reads(store)


def test_seen_simulations_are_shared_out_by_the_fractions(raw: Path) -> None:
    store = ingested(raw, environments={"unseen": ["extreme"]}, splits={"train": 0.6, "validation": 0.2, "test": 0.2})
    found = {read.simulation: read.split for read in reads(store) if OF[read.simulation] != "extreme"}
    counts = {split: list(found.values()).count(split) for split in SPLITS}
    assert sum(counts.values()) == 8  # the ninth is shorter than a window
    assert 4 <= counts["train"] <= 6
    assert 1 <= counts["validation"] <= 2
    assert 1 <= counts["test"] <= 2


def test_statistics_are_those_of_the_training_windows_alone(raw: Path) -> None:
    store = ingested(raw, environments={"unseen": ["extreme", "strong"]})
    values, windows = values_of(store).astype(np.float64), store.windows
    read = {int(f) for w in windows.of("train") for f in (*windows.input_frames(w), *windows.target_frames(w))}
    training = values[sorted(read)]
    statistics = store.description.statistics
    assert statistics.mean[0] == pytest.approx(training.mean(), rel=1e-6)
    assert statistics.std[0] == pytest.approx(training.std(), rel=1e-6)
    assert np.allclose(statistics.climatology[0], training.mean(axis=0), rtol=1e-6)
    assert {OF[NAMES[int(number)]] for number in training[:, 0, 0] // 1000} <= {"calm", "middle"}


def test_the_store_keeps_every_frame_and_fractions_of_a_second(raw: Path) -> None:
    store = ingested(raw, environments={"unseen": ["extreme"]})
    told = np.floor(values_of(store)[:, 0, 0]).astype(int)
    expected = [1000 * number + frame for number, frames in enumerate(LENGTHS) for frame in range(frames)]
    assert told.tolist() == expected
    assert store.description.frame_seconds == 0.25
    assert store.description.time_stamps == "nominal"
    gaps = np.diff(store.times).astype("timedelta64[ms]").astype(int)
    last = np.cumsum(LENGTHS)[:-1] - 1
    assert set(np.delete(gaps, last)) == {250}
    assert (gaps[last] > 250).all()
    segment = np.asarray(store.array("segment")[:])
    assert np.array_equal(np.flatnonzero(np.diff(segment)), last)


def test_windows_with_missing_values_are_dropped_and_the_rest_stays_where_it_was(raw: Path) -> None:
    import h5py

    with h5py.File(raw / "run02.h5", "a") as file:
        file["temperature"][6, 1, 1] = np.nan
    store = ingested(raw, environments={"unseen": ["extreme"]}, missing="drop")
    windows, values = store.windows, values_of(store)
    of_run = [
        np.floor(values[[*windows.input_frames(w), *windows.target_frames(w)], 0, 0]).astype(int) % 1000
        for w in range(len(windows))
        if values[windows.start[w], 0, 0] // 1000 == 2
    ]
    assert [frames.tolist() for frames in of_run] == [[0, 2, 4], [8, 10, 12]]


def test_the_same_files_give_the_same_bytes(raw: Path) -> None:
    stores = [ingested(raw, environments={"unseen": ["extreme"]}) for _ in range(2)]
    contents = [
        {path.relative_to(store.path): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
        for store in stores
    ]
    assert contents[0] == contents[1]


def test_the_summary_counts_the_windows_of_each_environment(raw: Path) -> None:
    params = tiny_params(dataset="prometheus", ingest={"variables": ["temperature"], **WINDOW})
    settings = params.ingest.model_copy(update={"environments": type(params.ingest.environments)(unseen=("extreme",))})
    source = Prometheus(params.fetch, settings, params.seed)
    (raw.parent / "out").mkdir()
    summary = ingest(source.open(raw), settings, raw.parent / "out", source.time_stamps, source.description)
    found = reads(Store(raw.parent / "out" / STORE))
    for name, counted in summary["environments"].items():
        own = [read.split for read in found if OF[read.simulation] == name]
        expected: dict[str, bool | int] = {split: own.count(split) for split in SPLITS}
        assert counted == expected | {"seen": name != "extreme"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"unseen": ["mild"]}, "environments.unseen: 'mild' is unknown; known: calm, middle, strong, extreme"),
        ({"seen": ["mild"]}, "environments.seen: 'mild' is unknown; known: calm, middle, strong, extreme"),
        ({"unseen": {"wind": [0, 1]}}, "has no parameter 'wind'; it has heat_release_rate_MW"),
        ({"unseen": {"heat_release_rate_MW": [41, 99]}}, "no environment lies in"),
        ({"seen": ["calm", "extreme"], "unseen": ["extreme"]}, "'extreme' is listed as seen and as unseen"),
        (
            {"seen": {"heat_release_rate_MW": [0, 20]}, "unseen": {"heat_release_rate_MW": [20, 50]}},
            "'strong' is seen and unseen; an environment can be one of them",
        ),
        ({"seen": ["extreme"], "unseen": {"heat_release_rate_MW": [30, 50]}}, "'extreme' is seen and unseen"),
        ({"unseen": {"heat_release_rate_MW": [50, 20]}}, r"\[50, 20\] is empty; the lower end comes first"),
        ({"unseen": list(POWER)}, "no window of 5 frames lies in train and validation"),
    ],
)
def test_a_choice_of_environments_that_makes_no_sense_is_refused(
    raw: Path, chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ingested(raw, environments=chosen)


def test_dates_cannot_split_simulations(raw: Path) -> None:
    periods = {"train": [2000, 2001], "validation": [2002, 2002], "test": [2003, 2003]}
    with pytest.raises(UserError, match=r"ingest.splits gives dates, but the record consists of simulations"):
        ingested(raw, splits=periods)
