from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import params as parameters
from pipeline.errors import UserError
from pipeline.params import load, parse
from tests.helpers import TINY, tiny_params

ROOT = Path(__file__).resolve().parents[1]


def refusal(**overrides: Any) -> str:
    with pytest.raises(UserError) as error:
        tiny_params(**overrides)
    return str(error.value)


def test_the_repositorys_own_file_is_valid_and_states_every_key() -> None:
    """What params.yaml leaves out cannot be swept with -S; sizes and dimensions are free mappings."""
    params = load(ROOT / "params.yaml")
    written = parameters.YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    tree = params.model_dump(mode="json", by_alias=True)
    assert set(tree) == set(written)
    for section, values in tree.items():
        if isinstance(values, dict):
            assert set(values) - {"dimensions"} <= set(written[section]), section


def test_an_unknown_key_is_named_with_its_siblings() -> None:
    message = refusal(betta=1)
    assert "unknown key 'betta'" in message
    assert "beta, lambda, fetch" in message
    assert "lambda_" not in message


@pytest.mark.parametrize(
    ("section", "siblings"),
    [
        ("fetch", "source, storage, checksums"),
        ("caption", "max_words, max_failed_share"),
        ("distill", "schedule, plateau_epochs"),
        ("runtime", "accelerator, devices, nodes, dask_scheduler"),
    ],
)
def test_an_unknown_nested_key_is_named_with_its_own_siblings(section: str, siblings: str) -> None:
    message = refusal(**{section: {"epoch": 3}})
    assert f"unknown key '{section}.epoch'" in message
    assert siblings in message
    assert "lambda" not in message


def test_a_key_two_levels_down_is_named_too() -> None:
    message = refusal(ingest={"splits": {"train": 0.7, "validation": 0.15, "test": 0.15, "tests": 0.1}})
    assert "unknown key 'ingest.splits.tests'; allowed beside it: train, validation, test" in message


def test_every_mistake_is_told_at_once() -> None:
    lines = refusal(betta=1, beta=-1, distill={"epochs": 0}).splitlines()
    assert len(lines) == 3


RANGES: list[tuple[str, Any, str]] = [
    ("seed", -1, "greater than or equal to 0"),
    ("seed", 2**32, "less than 4294967296"),
    ("seed", "abc", "valid integer"),
    ("beta", -1, "greater than or equal to 0"),
    ("beta", float("nan"), "finite"),
    ("beta", float("inf"), "finite"),
    ("beta", "much", "valid number"),
    ("lambda", -0.1, "greater than or equal to 0"),
    ("lambda", float("inf"), "finite"),
    ("students", [], "at least 1 item"),
    ("students", "unet", "tuple"),
    ("students", ["unet", "unet"], "lists an entry twice"),
    ("methods", [], "at least 1 item"),
    ("methods", ["s2kd", "baseline", "s2kd"], "lists an entry twice"),
    ("fetch.days", 29, "greater than or equal to 30"),
    ("fetch.spin_up_days", -1, "greater than or equal to 0"),
    ("ingest.variables", [], "at least 1 item"),
    ("ingest.dimensions", {"depth": "z"}, "'time', 'latitude', 'longitude', 'y' or 'x'"),
    ("ingest.t_in", 0, "greater than 0"),
    ("ingest.t_in", 1.5, "integer"),
    ("ingest.t_out", 0, "greater than 0"),
    ("ingest.step", 0, "greater than 0"),
    ("ingest.stride", -2, "greater than 0"),
    ("ingest.splits", {"train": 0.5, "validation": 0.2, "test": 0.2}, "is 0.9; it must be 1"),
    ("ingest.splits", {"train": 1, "validation": 0, "test": 0}, "less than 1"),
    ("ingest.missing", "skip", "'fail', 'drop' or 'fill'"),
    ("ingest.shard_megabytes", 0, "greater than 0"),
    ("caption.max_words", 0, "greater than 0"),
    ("caption.max_failed_share", 1.1, "less than or equal to 1"),
    ("embed.max_tokens", 0, "greater than 0"),
    ("embed.batch_size", 0, "greater than 0"),
    ("train_teacher.fusion_layers", 0, "greater than 0"),
    ("train_teacher.fusion_heads", 0, "greater than 0"),
    ("train_teacher.sizes", {"simvp": 3}, "dictionary"),
    ("dump_features.dtype", "bfloat16", "'float16' or 'float32'"),
    ("dump_features.batch_size", 0, "greater than 0"),
    ("dump_features.checked_windows", 0, "greater than 0"),
    ("dump_features.shard_megabytes", 0, "greater than 0"),
    ("seeds", [], "at least 1 item"),
    ("seeds", [1, 1], "lists an entry twice: 1, 1"),
    ("seeds", [-1], "greater than or equal to 0"),
    ("modalities", ["audio"], "'multimodal' or 'vision'"),
    ("distill.train_windows", 0, "greater than 0"),
    ("distill.target_scale", "log", "'raw', 'centred' or 'standardised'"),
    ("evaluate.batch_size", 0, "greater than 0"),
    ("evaluate.latency_runs", 0, "greater than 0"),
    ("evaluate.bootstrap_samples", 0, "greater than 0"),
    ("evaluate.block_windows", 0, "greater than 0"),
    ("evaluate.example_windows", 0, "greater than 0"),
    ("runtime.accelerator", "tpu", "'auto', 'cpu', 'gpu' or 'mps'"),
    *(
        (f"{stage}.{key}", value, allowed)
        for stage in ("train_teacher", "distill")
        for key, value, allowed in (
            ("epochs", 0, "greater than 0"),
            ("batch_size", 0, "greater than 0"),
            ("learning_rate", 0, "greater than 0"),
            ("learning_rate", float("inf"), "finite"),
            ("schedule", "cosine", "'plateau' or 'one-cycle'"),
            ("plateau_epochs", 0, "greater than 0"),
            ("plateau_factor", 0, "greater than 0"),
            ("plateau_factor", 1, "less than 1"),
            ("stop_epochs", 0, "greater than 0"),
            ("precision", "64-true", "'32-true', 'bf16-mixed' or '16-mixed'"),
        )
    ),
]


@pytest.mark.parametrize(("key", "value", "allowed"), RANGES, ids=[f"{key}={value}" for key, value, _ in RANGES])
def test_a_value_out_of_range_is_told_with_its_key_and_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    section, _, name = key.partition(".")
    message = refusal(**{section: {name: value} if name else value})
    assert key.split(".")[0] in message
    assert name in message
    assert allowed in message


def test_the_value_itself_is_in_the_message() -> None:
    assert "params: distill.epochs = -3 is not allowed" in refusal(distill={"epochs": -3})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"params\.yaml: key 'teacher' is missing"):
        parse({key: value for key, value in TINY.items() if key != "teacher"}, "params.yaml")


def test_lambda_is_read_by_its_name_in_the_file_and_written_under_it() -> None:
    params = tiny_params(**{"lambda": 0.25})
    assert params.lambda_ == 0.25
    assert params.model_dump(by_alias=True)["lambda"] == 0.25


def test_defaults_are_the_papers() -> None:
    params = tiny_params()
    assert (params.seed, params.beta, params.lambda_) == (42, 0.5, 1.0)
    training = params.distill
    assert (training.learning_rate, training.batch_size, training.epochs) == (1e-3, 16, 100)
    assert (training.schedule, training.plateau_epochs, training.plateau_factor) == ("plateau", 5, 0.1)


def test_the_tree_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_params().distill.epochs = 3


def test_a_file_that_is_missing_broken_or_no_mapping_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    with pytest.raises(UserError, match="is missing; run from the repository's root"):
        load(file)
    file.write_text("seed: [1")
    with pytest.raises(UserError, match="is not valid YAML"):
        load(file)
    file.write_text("- 1\n")
    with pytest.raises(UserError, match="holds list; a mapping of parameters is expected"):
        load(file)
    file.write_text("")
    with pytest.raises(UserError, match="holds NoneType"):
        load(file)
    file.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="seed"):
        load(file)
