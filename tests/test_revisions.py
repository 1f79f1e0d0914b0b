from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import compare, paths, revisions, tables
from pipeline.errors import UserError
from pipeline.results import Results
from pipeline.revisions import Revision
from tests.browser import CHROMIUM, opened
from tests.pipeline_copy import Clone


def command(folder: Path, *words: str) -> None:
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command(folder, "git", *identity, *arguments)


def better(folder: Path, factor: float, model: str = "unet", method: str = "s2kd") -> None:
    """Scales a method's errors in the table of scores, with some noise by window."""
    scores = pd.read_parquet(folder / "scores.parquet")
    chosen = (scores["model"] == model) & (scores["method"] == method) & (scores["metric"] == "mse")
    noise = 1 + 0.001 * np.sin(scores.loc[chosen, "window"])
    scores.loc[chosen, "value"] *= factor * noise
    scores.to_parquet(folder / "scores.parquet")


@pytest.fixture(scope="module")
def repository(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits whose data/evaluate DVC keeps, tagged plain and other; the workspace holds the second's."""
    root = tmp_path_factory.mktemp("repository")
    dvc = (sys.executable, "-m", "dvc")
    git(root, "init", "-q")
    command(root, *dvc, "init", "-q")
    shutil.copytree(evaluated / paths.EVALUATE, root / paths.EVALUATE)
    for tag, beta in (("plain", 0.5), ("other", 0.7)):
        (root / "params.yaml").write_text(
            f"beta: {beta}\ncaptioner: narrator\nteacher: simvp\ndistill: {{epochs: 3}}\n"
        )
        if tag == "other":
            better(root / paths.EVALUATE, 0.9)
        command(root, *dvc, "add", "-q", str(paths.EVALUATE))
        git(root, "add", ".")
        git(root, "commit", "-qm", tag)
        git(root, "tag", tag)
    return root


@pytest.fixture(scope="module")
def both(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Revision]:
    folder = tmp_path_factory.mktemp("read")
    return [revisions.read(name, folder / name, repository) for name in ("plain", "other")]


def test_a_revision_is_read_from_the_cache_and_the_workspace_stays_as_it_is(
    repository: Path, both: list[Revision]
) -> None:
    plain, other = both
    assert plain.parameters["beta"] == 0.5
    assert plain.parameters["distill.epochs"] == 3
    assert plain.commit is not None
    assert len(plain.commit) == 40
    assert plain.results.metrics.keys() == other.results.metrics.keys()
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""
    workspace = revisions.read("workspace", repository / "unused", repository)
    assert workspace.commit is None
    assert workspace.parameters["beta"] == 0.7
    pd.testing.assert_frame_equal(workspace.results.scores, other.results.scores)


def test_only_what_differs_is_listed(both: list[Revision]) -> None:
    assert revisions.changed_parameters(both) == {"beta": [0.5, 0.7]}


def test_a_difference_is_paired_by_window_and_seed_and_found_where_it_is(both: list[Revision]) -> None:
    (changed,) = revisions.differences(both)  # the other forecasters are the same in both
    assert changed.model == "unet s2kd"
    before, after = (revision.results for revision in both)
    expected = np.mean(
        [tables.seed_scores(after)["unet", "s2kd", s] - tables.seed_scores(before)["unet", "s2kd", s] for s in (42, 43)]
    )
    assert changed.difference == pytest.approx(expected)
    assert changed.seeds == 2
    assert changed.low is not None
    assert changed.high is not None
    assert changed.corrected_low is not None
    assert changed.corrected_low <= changed.low <= changed.difference <= changed.high


def test_without_a_seed_in_common_there_is_no_interval(both: list[Revision]) -> None:
    plain, other = both
    results = Results(other.results.folder)
    changed = {"seed": results.scores["seed"] + 100, "value": results.scores["value"] * 1.0001}
    results.scores = results.scores.assign(**changed)
    found = {each.model: each for each in revisions.differences([plain, replace(other, results=results)])}
    assert found["unet s2kd"].low is None
    assert found["unet s2kd"].verdict == "not distinguishable"
    assert found["unet s2kd"].difference < 0
    assert found["teacher"].low is not None  # which has no seed


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("t_out", 9, "numbers of target frames differ"),
        ("variables", [], "variables differ"),
        (None, None, "other data"),
    ],
)
def test_other_windows_are_said_not_to_be_comparable(
    both: list[Revision], key: str | None, value: object, words: str
) -> None:
    plain, other = both
    assert revisions.not_comparable(plain.results, other.results) is None
    results = Results(other.results.folder)
    if key:
        results.setup[key] = value
    else:  # the same numbers of windows on another record
        results.scores = results.scores.assign(value=results.scores["value"] * 1.01)
    stranger = replace(other, results=results)
    assert words in str(revisions.not_comparable(plain.results, results))
    assert revisions.differences([plain, stranger]) == []
    assert compare.reasons([plain, stranger])[0].startswith("other and plain are not comparable: their ")


@pytest.mark.parametrize("name", ["nonesuch", "plain~5"])
def test_an_unknown_revision_is_a_sentence(repository: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is no commit, branch, tag or experiment"):
        revisions.read(name, tmp_path / "read", repository)


def test_a_revision_without_results_is_a_sentence(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    command(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    (tmp_path / "params.yaml").write_text("beta: 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "empty")
    with pytest.raises(UserError, match="HEAD has no data/evaluate in the cache or a remote"):
        revisions.read("HEAD", tmp_path / "read", tmp_path)


SINCE_THE_FIRST = ("legends", "environments", "simulation", "domains")  # keys of setup.json that came later


def older(folder: Path, target: Path, name: str, *keys: str) -> Path:
    """A copy of results without some keys of a file: of each record, where it holds several."""
    shutil.copytree(folder, target)
    tree = json.loads((target / name).read_text())
    records = tree if isinstance(tree, list) else tree.values() if name == "cost.json" else [tree]
    for record in records:
        for key in keys:
            del record[key]
    (target / name).write_text(json.dumps(tree))
    return target


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("setup.json", SINCE_THE_FIRST),
        ("differences.json", ("domain", "simulations", "corrected_low", "corrected_high", "comparisons")),
        ("cost.json", ("latency_p95_ms",)),
    ],
)
def test_results_of_an_older_layout_are_still_compared_where_what_they_lack_is_known(
    both: list[Revision], tmp_path: Path, name: str, keys: tuple[str, ...]
) -> None:
    plain, other = both
    old = Results(older(plain.results.folder, tmp_path / "old", name, *keys))
    assert "U-Net S2-KD, other against old" in compare.page([replace(plain, name="old", results=old), other])
    assert [each.model for each in revisions.differences([replace(plain, results=old), other])] == ["unet s2kd"]


def test_results_that_lack_more_are_a_sentence_that_names_revision_file_and_keys(
    both: list[Revision], tmp_path: Path
) -> None:
    folder = both[0].results.folder
    keys = {
        "setup.json": set(json.loads((folder / "setup.json").read_text())) - set(SINCE_THE_FIRST),
        "cost.json": {"device"},
        "differences.json": {"student", "block_windows"},
        "captions.json": {"grounding"},
    }
    for name, missing in keys.items():
        for key in missing:
            copy = older(folder, tmp_path / name / key, name, key)
            with pytest.raises(UserError, match=f"^old:data/evaluate/{name} has no {key}: another version of s2kd"):
                Results(copy, "old:data/evaluate")


@pytest.mark.slow
def test_a_commit_of_another_layout_is_named_and_nothing_is_written(repository: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(repository, tmp_path / "repository", symlinks=True))
    target = root / paths.EVALUATE
    older(target, tmp_path / "old", "setup.json", "grid", "step_hours")
    shutil.copy(tmp_path / "old" / "setup.json", target / "setup.json")
    command(root, sys.executable, "-m", "dvc", "add", "-q", str(paths.EVALUATE))
    git(root, "commit", "-qam", "old")
    git(root, "tag", "old")
    with pytest.raises(UserError, match=r"^old:data/evaluate/setup.json has no grid, step_hours: another version"):
        compare.compare(["plain", "old"], tmp_path / "page.html", root=root)
    assert not (tmp_path / "page.html").exists()


def test_the_page_and_the_tables_for_latex_hold_both_revisions(repository: Path, tmp_path: Path) -> None:
    printed = compare.compare(["plain", "other"], tmp_path / "a" / "page.html", tmp_path / "tables.tex", repository)
    assert printed.count("U-Net S2-KD") == 2
    text = (tmp_path / "a" / "page.html").read_text()
    for words in ("Comparison of plain, other", "U-Net S2-KD, other against plain", "beta", "s2kd compare plain other"):
        assert words in text
    assert "<h2>By captioner</h2>" not in text
    assert (tmp_path / "tables.tex").read_text().count(r"\begin{table}") == 2


def test_captioners_are_compared_where_they_differ(both: list[Revision]) -> None:
    plain, other = both
    assert compare.captioner_charts(both) == []
    results = Results(other.results.folder)
    results.captions |= {"captioner": "shuffled"}
    named = Results(plain.results.folder)
    named.captions |= {"captioner": "narrator"}
    (chart,) = compare.captioner_charts([replace(plain, results=named), replace(other, results=results)])
    assert [tick.label for tick in chart.x_ticks] == ["narrator", "shuffled"]
    assert [line.name for line in chart.lines] == ["baseline", "FitNet", "S2-KD"]


@pytest.mark.parametrize("names", [[], ["plain"], ["plain", "plain"]])
def test_fewer_than_two_revisions_are_a_sentence(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two or more different revisions"):
        compare.compare(names, tmp_path / "page.html")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_comparison_without_an_error_or_an_outside_request(
    both: list[Revision], tmp_path: Path
) -> None:
    named = replace(both[1], parameters=both[1].parameters | {"beta": "</td><script>alert(1)</script>"})
    (tmp_path / "page.html").write_text(compare.page([both[0], named]))
    with opened(tmp_path / "page.html", tmp_path / "profile") as shown:
        shown.run("document.querySelector('#score-table + .scroll thead button').click()")
        assert shown.run("document.querySelector('#score-table + .scroll th').getAttribute('aria-sort')") == "ascending"
        assert shown.run("document.querySelectorAll('script').length") == 1
        assert shown.messages == []
        assert sum(not address.startswith("data:") for address in shown.requests) == 1


@pytest.mark.slow
def test_experiments_are_compared_by_name_and_dvc_draws_their_curves(built: Clone, tmp_path: Path) -> None:
    clone = built.copied(tmp_path / "clone")
    clone.dvc("exp", "run", "-S", "beta=0.7", "--name", "stronger")
    before = clone.files("data/evaluate")
    printed = clone.run(
        "python", "-c", "from pipeline.cli import main; main()", "compare", "HEAD", "stronger", "--output", "page.html"
    ).output
    assert printed.splitlines()[-1] == "Page: page.html"
    assert printed.count("U-Net S2-KD") == 2
    assert "U-Net S2-KD, stronger against HEAD" in (clone.root / "page.html").read_text()
    assert clone.files("data/evaluate") == before

    drawn = json.loads(clone.dvc("plots", "diff", "HEAD", "stronger", "--json").output)
    revisions_of = {plot["revisions"][0] for plot in drawn["data"]["rmse"] if len(plot["revisions"]) == 1}
    assert revisions_of | {r for plot in drawn["data"]["rmse"] for r in plot["revisions"]} == {"HEAD", "stronger"}
