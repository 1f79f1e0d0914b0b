"""The projection P and what every student's folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline.distillation import DistilledStudent
from pipeline.errors import UserError
from pipeline.features import Features
from pipeline.models import Problem
from pipeline.students.base import Projection, build, load, regridded, save_student

PROBLEM = Problem(t_in=2, t_out=3, variables=2, height=16, width=16, periodic=True)
GRIDS = [((2, 4), (8, 16)), ((2, 4), (2, 4)), ((8, 16), (4, 8)), ((3, 5), (8, 9)), ((5, 7), (4, 7)), ((2, 8), (4, 4))]


@pytest.mark.parametrize(("student", "teacher"), GRIDS)
def test_the_projection_ends_on_the_teachers_tokens(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    projection = Projection(6, student, 10, teacher)
    assert projection(torch.randn(2, 6, *student)).shape == (2, teacher[0] * teacher[1], 10)


@pytest.mark.parametrize(("student", "teacher"), GRIDS)
def test_the_projection_is_linear(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    torch.manual_seed(0)
    projection = Projection(6, student, 10, teacher).double()
    first, second = torch.randn(2, 1, 6, *student, dtype=torch.float64)
    origin = projection(torch.zeros_like(first))
    mixed = projection(2 * first - 3 * second) - origin
    torch.testing.assert_close(mixed, 2 * (projection(first) - origin) - 3 * (projection(second) - origin))
    assert (mixed.abs().sum(-1) > 0).all()  # no token is out of the student's reach


def test_on_equal_grids_each_token_is_a_matrix_times_its_own_position() -> None:
    projection = Projection(6, (3, 4), 5, (3, 4)).double()
    latent = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    weight, bias = projection.linear.weight[:, :, 0, 0], projection.linear.bias
    assert bias is not None
    torch.testing.assert_close(projection(latent), latent.flatten(2).transpose(1, 2) @ weight + bias)


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 4), (3, 4)), ((2, 4), (6, 8)), ((3, 5), (3, 10)), ((4, 8), (2, 2))]
)
def test_it_is_the_transposed_convolution_with_its_gradients(
    student: tuple[int, int], teacher: tuple[int, int]
) -> None:
    projection = Projection(4, student, 3, teacher).double()
    latent = torch.randn(2, 4, *student, dtype=torch.float64, requires_grad=True)
    expected = regridded(projection.linear(latent), teacher, False).flatten(2).mT
    leaves = [latent, *projection.parameters()]
    weights = torch.randn_like(expected)
    torch.testing.assert_close(projection(latent), expected)
    for mine, theirs in zip(
        torch.autograd.grad((weights * projection(latent)).sum(), leaves),
        torch.autograd.grad((weights * expected).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_on_a_coarser_grid_a_position_feeds_exactly_the_block_it_covers() -> None:
    projection = Projection(2, (2, 4), 3, (6, 8))
    moved = torch.zeros(1, 2, 2, 4)
    moved[0, 0, 1, 2] = 1
    change = (projection(moved) - projection(torch.zeros_like(moved))).unflatten(1, (6, 8)).abs().sum(-1)[0]
    touched = torch.nonzero(change).tolist()
    assert touched == [[row, column] for row in (3, 4, 5) for column in (4, 5)]


def test_on_a_finer_grid_a_token_is_the_mean_of_the_positions_it_covers() -> None:
    projection = Projection(4, (4, 8), 3, (2, 2)).double()
    latent = torch.randn(1, 4, 4, 8, dtype=torch.float64)
    pooled = latent.unflatten(2, (2, 2)).unflatten(4, (2, 4)).mean((3, 5))
    weight, bias = projection.linear.weight[:, :, 0, 0], projection.linear.bias
    assert bias is not None
    expected = torch.einsum("bdij,de->bije", pooled, weight) + bias
    torch.testing.assert_close(projection(latent), expected.flatten(1, 2))


def interpolation(before: int, after: int, around: bool) -> np.ndarray:
    """(after, before): linear interpolation between the centres of cells of equal width, written out."""
    matrix = np.zeros((after, before))
    for row in range(after):
        place = (row + 0.5) * before / after - 0.5
        for column in (int(np.floor(place)), int(np.floor(place)) + 1):
            weight = 1 - abs(place - column)
            matrix[row, column % before if around else min(max(column, 0), before - 1)] += weight
    return matrix


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("before", "after"), [((3, 5), (4, 7)), ((2, 1), (5, 4)), ((3, 5), (3, 9)), ((6, 4), (3, 7))])
def test_a_coarser_axis_is_interpolated_around_a_globe_and_a_finer_one_averaged(
    before: tuple[int, int], after: tuple[int, int], periodic: bool
) -> None:
    images = torch.randn(2, 3, *before, dtype=torch.float64)
    rows = interpolation(before[0], after[0], around=False)
    if before[0] > after[0]:
        rows = np.kron(np.eye(after[0]), np.full((1, before[0] // after[0]), after[0] / before[0]))
    columns = interpolation(before[1], after[1], around=periodic)
    expected = np.einsum("ai,bj,ncij->ncab", rows, columns, images.numpy())
    torch.testing.assert_close(regridded(images, after, periodic), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


class Hints(Features):
    """The two numbers that a projection takes from the teacher's features."""

    def __init__(self) -> None:
        self.grid = (8, 8)
        self.values = np.zeros((0, 64, 12))


def test_the_projection_is_trained_with_the_student_and_not_saved_with_it(tmp_path: Path) -> None:
    model = DistilledStudent(build("unet", PROBLEM, {"width": 2}), Hints())
    trained = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert trained == {"student", "projection"}
    save_student(model.student, tmp_path / "student", name="unet", sizes={"width": 2})
    assert set(load_file(tmp_path / "student" / "model.safetensors")) == set(model.student.state_dict())


def test_without_features_there_is_no_projection() -> None:
    model = DistilledStudent(build("unet", PROBLEM, {"width": 2}), None)
    output = model(torch.randn(2, 2, 2, 16, 16))
    assert output.projected is None
    assert output.forecast.shape == (2, 3, 2, 16, 16)


def test_a_saved_student_forecasts_the_same_when_loaded(tmp_path: Path) -> None:
    student = build("unet", PROBLEM, {"width": 2})
    student.normaliser.set([5.0, -1.0], [2.0, 3.0])
    student(torch.randn(4, 2, 2, 16, 16))  # batch norm's running statistics move
    save_student(student, tmp_path / "student", name="unet", sizes={"width": 2})
    inputs = torch.randn(2, 2, 2, 16, 16)
    again = load(tmp_path / "student")
    assert not again.training
    assert torch.equal(again(inputs).forecast, student.eval()(inputs).forecast)


def test_a_folder_that_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        load(tmp_path / "none")
    save_student(build("unet", PROBLEM, {"width": 2}), tmp_path / "student", name="unet", sizes={"width": 2})
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    (tmp_path / "student" / "config.json").write_text(json.dumps(config | {"sizes": {"width": 4}}))
    with pytest.raises(UserError, match="does not fit"):
        load(tmp_path / "student")


def test_wrong_names_and_sizes_are_sentences() -> None:
    with pytest.raises(UserError, match=r"unknown student 'vit'; known: .*unet"):
        build("vit", PROBLEM, {})
    with pytest.raises(UserError, match=r"distill\.sizes\.unet: depth = 3: .*; its keys are width"):
        build("unet", PROBLEM, {"depth": 3})
    with pytest.raises(UserError, match=r"distill\.sizes\.unet: width = 0: .*greater than 0"):
        build("unet", PROBLEM, {"width": 0})
