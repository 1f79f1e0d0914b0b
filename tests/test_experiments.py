"""Weights and curves from DVC's queue: what is queued, what is read back, and that the test split stays closed."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from PIL import Image
from ruamel.yaml import YAML

from experiments import curves, queued, tune
from pipeline import overlay, params
from pipeline.errors import UserError
from pipeline.params import Distill
from tests.helpers import tiny_params
from tests.pipeline_copy import Clone, Result

pytestmark = pytest.mark.slow

SEEDS = (1, 2)
METHODS = ("baseline", "s2kd")  # one teacher is enough, and no forecasts of it
SHORT = ["-S", f"methods=[{','.join(METHODS)}]", "-S", "dump_features.forecasts=false"]
LAMBDAS = ("0.1", "10")
WINDOWS, EPOCHS, STEPS_OF_EPOCH = 8, 2, 2
TRAINED = [f"distill.train_windows={WINDOWS}", f"distill.epochs={EPOCHS}", f"distill.stop_epochs={EPOCHS}"]
NAMES = ("tune-standardised-0p1", "tune-standardised-10", "curves-8-windows")


def typed(patch: pytest.MonkeyPatch, module: ModuleType, *words: str) -> None:
    """Runs a script of experiments/ with these words on its command line."""
    patch.setattr(sys, "argv", [module.__name__, *words])
    module.main()


def enter(patch: pytest.MonkeyPatch, clone: Clone) -> None:
    patch.chdir(clone.root)
    for name, value in clone.environ().items():
        patch.setenv(name, value)


@pytest.fixture(scope="module")
def ran(built: Clone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, Result]:
    """A clone, not to be written to, whose queue has been run, and what that printed.

    The experiment for the curves has the parameters of one of the others, so that DVC takes it from its cache.
    """
    clone = built.copied(tmp_path_factory.mktemp("experiments") / "clone")
    both = ["--seeds", *map(str, SEEDS), *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, clone)
        typed(patch, tune, "queue", "--lambdas", *LAMBDAS, *both, *(word for key in TRAINED for word in ("-S", key)))
        steps = str(EPOCHS * STEPS_OF_EPOCH)
        typed(patch, curves, "queue", "--windows", str(WINDOWS), "--steps", steps, *both, "-S", tune.weights(0.1))
    return clone, clone.dvc("exp", "run", "--run-all")


@pytest.fixture
def clone(ran: tuple[Clone, Result], monkeypatch: pytest.MonkeyPatch) -> Iterator[Clone]:
    """The same, as the working directory."""
    enter(monkeypatch, ran[0])
    yield ran[0]
    assert ran[0].run("git", "status", "--short").output == ""


def file_of(clone: Clone, name: str, path: str) -> Any:
    """A YAML file of an experiment, by git alone."""
    refs = clone.run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}").output.split()
    return YAML(typ="safe", pure=True).load(clone.run("git", "show", f"{refs[0]}:{path}").output)


def errors(clone: Clone, name: str, method: str) -> list[list[float]]:
    """Validation errors by seed and epoch, read from DVC's cache as it lies on disk."""
    cache = clone.root / ".dvc/cache/files/md5"
    outs = file_of(clone, name, "dvc.lock")["stages"][f"distill@unet-{method}"]["outs"]
    listing = json.loads((cache / outs[0]["md5"][:2] / outs[0]["md5"][2:]).read_text())
    sums = {entry["relpath"]: entry["md5"] for entry in listing}
    histories = [sums[f"seed-{seed}/history.json"] for seed in SEEDS]
    rows = [json.loads((cache / md5[:2] / md5[2:]).read_text()) for md5 in histories]
    return [[epoch["validation_prediction"] for epoch in history] for history in rows]


def test_the_queue_trains_students_by_name_and_leaves_the_test_split_closed(ran: tuple[Clone, Result]) -> None:
    clone, result = ran
    assert sorted(clone.dvc("exp", "list", "--name-only").output.split()) == sorted(NAMES)
    assert result.stages == ["check", "distill@unet-baseline", "distill@unet-s2kd"] * 2
    before = clone.outputs()
    for name in NAMES:
        stages = file_of(clone, name, "dvc.lock")["stages"]
        after = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
        changed = {path for path in before if after.get(path) != before[path]}
        assert changed == {"data/distill/unet-baseline", "data/distill/unet-s2kd"}


def test_an_experiment_has_the_settings_that_its_name_tells(clone: Clone) -> None:
    for name, lambda_ in zip(NAMES, (0.1, 10.0, 0.1), strict=True):
        tree = file_of(clone, name, "params.yaml")
        assert (tree["methods"], tree["seeds"]) == (list(METHODS), list(SEEDS))
        assert [tree["distill"][key] for key in ("train_windows", "epochs", "stop_epochs")] == [WINDOWS, EPOCHS, EPOCHS]
        assert tree["distill"]["tuned"]["s2kd"] == {"lambda": lambda_, "target_scale": "standardised"}
        assert len(errors(clone, name, "s2kd")[0]) == EPOCHS


def test_weights_are_those_with_the_smallest_error_and_can_be_applied(
    clone: Clone, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    means = {}
    for name, text in zip(NAMES, LAMBDAS, strict=False):
        means[float(text)] = statistics.mean(min(seed) for seed in errors(clone, name, "s2kd"))
    assert len(set(means.values())) == 2
    typed(monkeypatch, tune, "choose", "--lambdas", *LAMBDAS)
    printed = capsys.readouterr()
    for lambda_, mean in means.items():
        assert re.search(rf"^s2kd +{lambda_:g} standardised +{mean:.5f} ± ", printed.err, re.MULTILINE)

    overlaid = tmp_path / "tuned.yaml"
    overlaid.write_text(printed.out)
    target = Path(shutil.copy("params.yaml", tmp_path))
    overlay.apply(overlaid, target)
    tuned = params.load(target).distill.tuned
    assert list(tuned) == ["s2kd"]
    assert tuned["s2kd"].lambda_ == min(means, key=lambda lambda_: means[lambda_])
    assert tuned["s2kd"].target_scale == "standardised"


def test_students_can_have_weights_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {  # by student and lambda; in the mean 1 is the best of unet's and resnet's
        ("unet", 0.1): 0.3, ("unet", 1.0): 0.2, ("unet", 10.0): 0.1,
        ("resnet", 0.1): 0.2, ("resnet", 1.0): 0.1, ("resnet", 10.0): 0.9,
    }  # fmt: skip
    of = {}
    for lambda_ in (0.1, 1.0, 10.0):
        given = tiny_params(seeds=[1], students=["unet", "resnet"], distill={"tuned": {"s2kd": {"lambda": lambda_}}})
        histories = {student: [{"validation_prediction": errors[student, lambda_]}] for student in given.students}
        trainings = [queued.Training(student, "s2kd", 1, histories[student]) for student in given.students]
        trainings += [queued.Training(student, "baseline", 1, histories[student]) for student in given.students]
        of[tune.name(lambda_)] = queued.Experiment(given, trainings)
    monkeypatch.setattr(tune, "experiment", lambda name: of[name])
    typed(monkeypatch, tune, "choose", "--lambdas", "0.1", "1", "10")
    assert re.findall(r"(\S+): {lambda: (\S+),", capsys.readouterr().out) == [("s2kd", "1")]
    typed(monkeypatch, tune, "choose", "--lambdas", "0.1", "1", "10", "--by-student")
    printed = capsys.readouterr()
    assert re.findall(r"(\S+): {lambda: (\S+),", printed.out) == [("unet-s2kd", "10"), ("resnet-s2kd", "1")]
    assert re.search(r"^resnet-s2kd +10 \S+ +0\.90000$", printed.err, re.MULTILINE)


def test_a_queue_tries_its_weights_on_students_that_had_their_own(clone: Clone) -> None:
    text = Path("params.yaml").read_text()
    try:
        Path("params.yaml").write_text(text.replace("tuned: {}", "tuned: {unet-s2kd: {lambda: 5}, unet-kd: {beta: 2}}"))
        given = queued.settled([tune.weights(0.03)])
    finally:
        Path("params.yaml").write_text(text)
    assert given.of_pair("unet", "s2kd").lambda_ == 0.03
    assert (given.of_pair("unet", "kd").lambda_, given.of_pair("unet", "kd").beta) == (0.3, 2)


def test_curves_are_drawn_from_the_histories(
    clone: Clone, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot as plt

    picture = tmp_path / "figures" / "curves.png"
    typed(monkeypatch, curves, "draw", str(picture), "--windows", str(WINDOWS))
    assert Image.open(picture).size == (1200, 600)
    printed = dict(re.findall(r"^unet (\S+) +(.*)$", capsys.readouterr().out, re.MULTILINE))
    by_windows, by_step = cast(list[Any], plt.gcf().axes)
    plt.close()
    for number, method in enumerate(METHODS):
        of_seeds = errors(clone, NAMES[2], method)
        best = [min(seed) for seed in of_seeds]
        assert printed[method] == f"{statistics.mean(best):.5f} ± {statistics.stdev(best):.5f}"
        middle = by_windows.containers[number].lines[0].get_xydata()
        assert middle.tolist() == [[WINDOWS, pytest.approx(statistics.mean(best))]]
        means = [statistics.mean(at) for at in zip(*of_seeds, strict=True)]
        steps = [STEPS_OF_EPOCH * (epoch + 1) for epoch in range(EPOCHS)]
        assert by_step.lines[number].get_xydata().tolist() == [list(point) for point in zip(steps, means, strict=True)]


def test_an_experiment_that_has_not_been_run_is_named_without_a_traceback(clone: Clone, tmp_path: Path) -> None:
    picture = str(tmp_path / "curves.png")
    result = clone.run("python", "-m", "experiments.curves", "draw", picture, "--windows", "8", "5", code=1)
    assert result.output.startswith("curves: error: experiment curves-5-windows has not been run")
    assert len(result.output.splitlines()) == 1
    assert not Path(picture).exists()


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (tune, ["choose", "--lambdas", "0.1", "7"], "experiment tune-standardised-7 has not been run"),
        (tune, ["queue", "--lambdas", "3", "10", *SHORT], "experiment tune-standardised-10 has been run already"),
        (tune, ["queue"], "method 'kd' learns from the vision teacher and modalities = [multimodal]"),
        (tune, ["queue", "--seeds", "1", "1", *SHORT], "seeds lists an entry twice: 1, 1"),
        (tune, ["queue", "--lambdas", "-1", *SHORT], "distill.tuned.kd.lambda = -10 is not allowed"),
        (tune, ["queue", *SHORT, "-S", "distill.epoch=3"], "Could not override 'distill.epoch'"),
        (tune, ["queue", *SHORT, "-S", "beta=0.1,0.2"], "beta=0.1,0.2"),
        (curves, ["queue", *SHORT], "--windows 400 is not allowed: the record has 38 training windows"),
        (curves, ["queue", "--windows", "0", *SHORT], "distill.train_windows = 0 is not allowed"),
        (curves, ["queue", "--windows", "0", "--of", "targets", *SHORT], "distill.target_windows = 0 is not allowed"),
    ],
)
def test_a_mistake_is_told_and_nothing_queued(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, script: ModuleType, words: list[str], message: str
) -> None:
    monkeypatch.setattr(queued.subprocess, "run", lambda *_, **__: pytest.fail("DVC was started"))
    with pytest.raises(SystemExit, match=re.escape(message)) as stopped:
        typed(monkeypatch, script, *words)
    assert str(stopped.value).startswith(f"{script.__name__.rpartition('.')[2]}: error: ")
    monkeypatch.undo()


def test_one_seed_has_no_deviation() -> None:
    assert queued.figures([0.5]) == "0.50000"
    assert queued.figures([0.5, 0.7]) == "0.60000 ± 0.14142"


def test_weights_of_different_numbers_of_seeds_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    of = {tune.name(0.1): tiny_params(seeds=[1, 2]), tune.name(1.0): tiny_params(seeds=[1, 2, 3])}
    monkeypatch.setattr(tune, "experiment", lambda name: queued.Experiment(of[name], []))
    with pytest.raises(UserError, match=r"seeds differ: tune-standardised-0p1 \[1,2\], tune-standardised-1 \[1,2,3\]"):
        tune.errors((0.1, 1.0))


def test_weights_stand_above_those_of_an_earlier_choice_and_leave_beta(clone: Clone) -> None:
    earlier = "++distill.tuned={s2kd:{lambda:5,beta:0.9},fitnet:{lambda:5,target_scale:raw}}"
    given = queued.settled([earlier, tune.weights(0.03)])
    for method, lambda_ in {"s2kd": 0.03, "fitnet": 0.03, "kd": 0.3, "reviewkd": 0.03}.items():
        taken = given.of_pair("unet", method)
        assert (taken.lambda_, taken.distill.target_scale) == (lambda_, "standardised")
    assert given.of_pair("unet", "s2kd").beta == 0.9


def steps_of_epoch(windows: int, distill: Distill) -> int:
    """By counting them."""
    shown = windows * (1 if distill.target_windows is None else 2)
    batches = range(0, shown, distill.batch_size)
    return len(range(0, len(batches), distill.accumulate))


def test_every_number_of_windows_gets_as_many_steps(clone: Clone) -> None:
    for more in ([], ["distill.accumulate=3"], ["distill.batch_size=7"], ["distill.target_windows=2"]):
        for windows in (3, 38):
            distill = queued.settled(curves._settings(windows, "windows", 60, list(more))).distill
            assert (distill.train_windows, distill.stop_epochs) == (windows, distill.epochs)
            steps = steps_of_epoch(windows, distill)
            assert abs(distill.epochs * steps - 60) <= steps / 2


def test_every_number_of_targets_gets_as_many_steps_on_all_windows(clone: Clone) -> None:
    everything = "distill.train_windows=null"  # of the 38
    for targets in (3, 38):
        distill = queued.settled(curves._settings(targets, "targets", 60, [everything])).distill
        assert (distill.target_windows, distill.train_windows) == (targets, None)
        steps = steps_of_epoch(38, distill)
        assert abs(distill.epochs * steps - 60) <= steps / 2
