"""params.yaml -> one frozen, typed tree. The only reader of that file.

Unknown keys, wrong types and values out of range raise `UserError` with the key, the value and what is
allowed. Names of components (dataset, captioner, ...) are checked against the rooms' tables.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML, YAMLError

from pipeline.errors import UserError
from pipeline.paths import ANSWERS

PARAMS_FILE = Path("params.yaml")

# A record's time stamps: UTC, the clock of a place, or nominal (they order the frames but mean no hour or season).
TimeStamps = Literal["calendar", "local", "nominal"]

# Which teacher: the paper's, that reads fields and captions, or the same without the text.
Modality = Literal["multimodal", "vision"]

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every generator in use takes
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

SECRET_WORDS = ("key", "secret", "token", "password", "credential")  # in the name of an option
HARMLESS = (None, "", "anon", "cloud", "google_default", "cache")  # values of such an option that give nothing away


def _moment(value: Any) -> str:
    """A year, month, day or time stamp as ISO 8601 text, as precise as it was given."""
    if isinstance(value, datetime.datetime | datetime.date):  # YAML reads a bare date as such
        return value.isoformat()
    text = f"{value:04d}" if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) < 4:
        raise ValueError("a year (1979), month (1979-06), day (1979-06-01) or time stamp is expected")
    try:
        np.datetime64(text)
    except ValueError:
        raise ValueError("a year (1979), month (1979-06), day (1979-06-01) or time stamp is expected") from None
    return text


Moment = Annotated[str, BeforeValidator(_moment)]


def _start(moment: str) -> np.datetime64:
    return np.datetime64(moment).astype("datetime64[ms]")


def _end(moment: str) -> np.datetime64:
    """What comes after the year, month, day or instant."""
    return (np.datetime64(moment) + 1).astype("datetime64[ms]")


def _leaves(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of options at any depth."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield name, value


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, populate_by_name=True)


class Fires(Section):
    """What `dataset: fire_twin` simulates."""

    seen: Positive = 12  # environments within the moderate range of heat release
    unseen: NonNegative = 4  # environments with larger fires
    simulations: Positive = 3  # of each environment
    seconds: Annotated[int, Field(ge=10)] = 150  # of each simulation, from the ignition on


class Fetch(Section):
    """Where raw files come from. `source` is ignored by simulated data sets."""

    source: str | None = None  # folder, file, glob or fsspec URL
    storage: dict[str, Any] = {}  # options of fsspec's file system: anon, endpoint_url, ...
    checksums: str | None = None  # file or URL of published sums, as sha256sum, sha512sum or md5sum write them
    years: tuple[int, int] | None = None  # first and last year that are copied; null: all
    context: tuple[str, ...] = ()  # tables of weather, holidays, events: for the captioner's prompt alone
    days: Annotated[int, Field(ge=30)] | None = None  # simulated days kept; null: the twin's own number
    spin_up_days: NonNegative = 100  # simulated days thrown away first
    fire: Fires = Fires()

    @field_validator("storage")
    @classmethod
    def _no_secrets(cls, options: dict[str, Any]) -> dict[str, Any]:
        """params.yaml is committed and shared: keys come from the environment or the cloud's own files."""
        for name, value in _leaves(options):
            if any(word in name.lower() for word in SECRET_WORDS) and value not in HARMLESS:
                raise ValueError(f"'{name}' looks like a secret; keys belong in the environment, not in params.yaml")
        return options

    @field_validator("years")
    @classmethod
    def _in_order(cls, years: tuple[int, int] | None) -> tuple[int, int] | None:
        if years and years[0] > years[1]:
            raise ValueError("the first year comes after the last")
        return years


Period = tuple[Moment, Moment]  # both ends included, each a year, month, day or time stamp
Share = Annotated[
    Annotated[float, Field(gt=0, lt=1), Tag("(fraction)")] | Annotated[Period, Tag("(dates)")],
    Discriminator(lambda value: "(dates)" if isinstance(value, list | tuple) else "(fraction)"),
]


class Splits(Section):
    """Fractions of the record, contiguous in time, in this order; or the first and last date of each."""

    train: Share = 0.7
    validation: Share = 0.15
    test: Share = 0.15

    @property
    def fractions(self) -> tuple[float, float, float] | None:
        """None where they are dates."""
        train, validation, test = self.train, self.validation, self.test
        if isinstance(train, float) and isinstance(validation, float) and isinstance(test, float):
            return train, validation, test
        return None

    @property
    def periods(self) -> dict[str, tuple[np.datetime64, np.datetime64]]:
        """The first moment of each split and the one after its last; empty where they are fractions."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: (_start(pair[0]), _end(pair[1])) for name, pair in given.items() if isinstance(pair, tuple)}

    @model_validator(mode="after")
    def _of_one_kind(self) -> Splits:
        if self.fractions:
            total = sum(self.fractions)
            if abs(total - 1) > 1e-6:
                raise ValueError(f"train + validation + test is {total:g}; it must be 1")
            return self
        periods = self.periods
        if len(periods) < 3:
            raise ValueError("train, validation and test must all be fractions or all be [first, last] dates")
        for name, (start, end) in periods.items():
            if start >= end:
                raise ValueError(f"{name} ends before it starts")
        for (first, (_, end)), (second, (start, _)) in itertools.combinations(
            sorted(periods.items(), key=lambda item: item[1]), 2
        ):
            if start < end:
                raise ValueError(f"{first} and {second} overlap; every date belongs to one split at most")
        return self


Choice = Annotated[
    Annotated[dict[str, tuple[float, float]], Tag("(ranges)")] | Annotated[tuple[str, ...], Tag("(names)")],
    Discriminator(lambda value: "(ranges)" if isinstance(value, dict) else "(names)"),
]


class Environments(Section):
    """Which of a data set's environments may be learnt from: by name, or by ranges of their parameters.

    A mapping chooses the environments all of whose named parameters lie in [low, high]. What neither key names
    is seen, unless `seen` is given: then it is left out.
    """

    seen: Choice | None = None
    unseen: Choice | None = None

    @model_validator(mode="after")
    def _apart(self) -> Environments:
        if isinstance(self.seen, tuple) and isinstance(self.unseen, tuple):
            both = [name for name in self.seen if name in self.unseen]
            if both:
                raise ValueError(f"environment '{both[0]}' is listed as seen and as unseen; it can be one of them")
        for chosen in (self.seen, self.unseen):
            for name, (low, high) in chosen.items() if isinstance(chosen, dict) else ():
                if low > high:
                    raise ValueError(f"{name}: [{low:g}, {high:g}] is empty; the lower end comes first")
        return self


class Ingest(Section):
    variables: Annotated[tuple[str, ...], Field(min_length=1)]
    dimensions: dict[Literal["time", "latitude", "longitude", "y", "x"], str] = {}  # the source's own names, if unusual
    t_in: Positive = 4  # input frames of a window
    t_out: Positive = 4  # target frames of a window
    step: Positive = 2  # record frames between two frames of a window
    stride: Positive = 3  # record frames between the starts of two windows
    splits: Splits = Splits()
    environments: Environments = Environments()
    missing: Literal["fail", "drop", "fill"] = "fail"  # NaN or infinity in the fields
    description: str = ""  # fixed words about the data set, for the captioner
    shard_megabytes: PositiveFloat = 50


class Picture(Section):
    """How a window's frames are put before a model's eyes."""

    layout: Literal["sheet", "images", "video"] = "sheet"  # one contact sheet, an image a frame, or a video's frames
    pixels: Annotated[int, Field(ge=32, le=2048)] = 256  # width of one map


class Sampling(Section):
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    retry_temperature: Annotated[float, Field(gt=0, le=2)] = 0.7  # at least this from the second attempt on
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 200


class VLLM(Section):
    model: str = "smolvlm"  # a ready setting, a hub name or a folder
    revision: str | None = None
    engine: dict[str, Any] = {}  # any of vLLM's engine arguments
    in_flight: Positive | None = None  # requests given to the engine at a time; null: twice what it runs at once


class Prices(Section):
    """Per million tokens, in whatever currency the bill has."""

    input: Weight = 0.0
    output: Weight = 0.0


class OpenAI(Section):
    server: str = "http://127.0.0.1:8000/v1"
    model: str = "gpt-4o"
    key_variable: str = "OPENAI_API_KEY"  # of the environment; the key stands nowhere else
    in_flight: Positive = 16
    timeout_seconds: PositiveFloat = 120
    retries: NonNegative = 6  # of one request, after 429, 5xx or a broken connection
    prices: Prices = Prices()
    budget: PositiveFloat | None = None  # what may be spent; asking stops before it is overspent


class Caption(Section):
    max_words: Positive = 120
    max_failed_share: Fraction = 0.05
    attempts: Positive = 3  # how often a window is asked for while its caption is bad
    output: Literal["text", "json"] = "text"
    template: str | None = None  # file of the prompt, or folder of <dataset>.txt; null: the package's own folder
    constant: str = "A sequence of fields on a grid."
    shuffle: str = "narrator"  # `captioner: shuffled`: whose captions are permuted
    picture: Picture = Picture()
    sampling: Sampling = Sampling()
    workers: Positive = 1  # processes that draw pictures ahead of the model
    vllm: VLLM = VLLM()
    openai: OpenAI = OpenAI()


class Embed(Section):
    model: str | None = None  # hub name or folder, for `embedder: huggingface`
    revision: str | None = None
    max_tokens: Positive = 160
    batch_size: Positive = 32


class Training(Section):
    """What `training.fit` needs, for teacher and student alike."""

    section: ClassVar[str] = "training"  # where the keys stand in params.yaml

    epochs: Positive = 100
    batch_size: Positive = 16
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["plateau", "one-cycle"] = "plateau"
    plateau_epochs: Positive = 5  # epochs without a better validation loss before the rate falls
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    stop_epochs: Positive = 15  # epochs without a better validation loss before training stops
    residual: bool = False  # forecast the change since the last input frame
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate: Positive = 1  # batches whose gradients make one step
    clip_norm: PositiveFloat | None = None  # longer gradients are shortened to this norm
    compile: bool = False  # through torch.compile: slow to start, faster steps, results within rounding


class TrainTeacher(Training):
    section: ClassVar[str] = "train_teacher"
    sizes: dict[str, dict[str, Any]] = {}  # by teacher's name; each teacher documents its own keys
    fusion_layers: Positive = 2  # N of eq. 5-9
    fusion_heads: Positive = 4
    checkpoint_activations: bool = False  # blocks run again in the backward pass instead of being remembered


class DumpFeatures(Section):
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: Positive = 32
    checked_windows: Positive = 8  # how many stored windows are computed again and compared
    shard_megabytes: PositiveFloat = 50  # what a killed run loses at most
    forecasts: bool = False  # the teacher's forecasts too, for method kd


TargetScale = Literal["raw", "centred", "standardised"]


class MethodOptions(Section):
    """What single methods take besides beta and lambda; `options` of a loss names its own."""

    spectral_axes: Literal["grid", "tokens", "channels"] = "grid"  # what the transform of eq. 11 runs over
    frequency_cutoff: Fraction = 0.5  # sdkd: where the low band ends, as a share of the highest frequency of an axis
    low_band_weight: Weight = 0.5  # sdkd: of the low band beside the high one
    teacher_bounded: bool = False  # kd: learn only where the teacher is better, instead of its forecast
    bound_margin: Weight = 0.0  # kd, bounded: how much better than the teacher is enough


class MethodWeights(Section):
    """What one method takes in the place of beta, lambda and distill.target_scale, where it has been tuned."""

    beta: Weight | None = None
    lambda_: Annotated[Weight | None, Field(alias="lambda")] = None
    target_scale: TargetScale | None = None


class Distill(MethodOptions, Training):
    section: ClassVar[str] = "distill"
    sizes: dict[str, dict[str, Any]] = {}  # by student's name
    train_windows: Positive | None = None  # evenly spaced training windows given to the student; null: all
    target_windows: Positive | None = None  # of those, evenly spaced: whose targets it learns from; null: all
    target_scale: TargetScale = "centred"
    tuned: dict[str, MethodWeights] = {}  # by method, or by student and method: resnet-s2kd


class Evaluate(Section):
    batch_size: Positive = 32
    latency_runs: Positive = 30
    bootstrap_samples: Positive = 1000
    block_windows: Positive = 10  # consecutive test windows resampled together
    example_windows: Positive = 3
    rollout: NonNegative = 3  # forecasts in a row, each made from the one before; 0: none
    fss_cells: Positive = 5  # side of the neighbourhood in which the fractions skill score counts extremes
    vehicle_threshold: PositiveFloat = 10  # traffic: errors where at least so many vehicles were counted


class Export(Section):
    """Which student is delivered: the best by validation among those that fit what is named here."""

    student: str | None = None
    method: str | None = None
    seed: Seed | None = None
    int8: bool = False  # a second model with 8-bit weights and activations, calibrated on training windows
    licence: str | None = None  # of the weights, for the model card, as huggingface.co names it


class Report(Section):
    title: str = "s2kd report"


class Runtime(Section):
    """Where the work runs. No stage depends on it: it must not change a result's meaning."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Positive = 1  # of each machine, that share each training batch and the windows of a feature dump
    nodes: Positive = 1  # machines that do so together; each runs the stage, see docs/training.md
    dask_scheduler: str | None = None  # address of a dask.distributed scheduler; null: threads here
    answers: Path = ANSWERS  # what captioners have answered; clones may share it by an absolute path
    loader_workers: NonNegative = 0  # processes that read windows ahead of training and scoring; 0: its own

    @property
    def node(self) -> int:
        """This machine's number among `nodes`, by the variables that Fabric and torchrun agree on; 0 if it is alone."""
        if self.nodes == 1:
            return 0
        return int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))


class Params(Section):
    seed: Seed = 42  # of simulated data, of controls among captioners and of teachers
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (42, 43, 44)  # of the students: one for each
    dataset: str
    captioner: str
    embedder: str
    teacher: str
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("multimodal", "vision")  # teachers trained
    students: Annotated[tuple[str, ...], Field(min_length=1)]
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    beta: Weight = 0.5  # eq. 12
    lambda_: Annotated[Weight, Field(alias="lambda")] = 1.0  # eq. 14
    fetch: Fetch = Fetch()
    ingest: Ingest
    caption: Caption = Caption()
    embed: Embed = Embed()
    train_teacher: TrainTeacher = TrainTeacher()
    dump_features: DumpFeatures = DumpFeatures()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    report: Report = Report()
    runtime: Runtime = Runtime()

    def of_pair(self, student: str, method: str) -> Params:
        """These parameters with the weights of a student's training by a method.

        `distill.tuned` may hold some for the two, or for the method; the others are those that all have in common.
        """
        weights: dict[str, Any] = {}
        for name in (method, f"{student}-{method}"):
            weights |= self.distill.tuned.get(name, MethodWeights()).model_dump(exclude_none=True)
        scale = {"target_scale": weights.pop("target_scale", self.distill.target_scale), "tuned": {}}
        return self.model_copy(update={**weights, "distill": self.distill.model_copy(update=scale)})

    @model_validator(mode="after")
    def _no_repeats(self) -> Params:
        for key in ("students", "methods", "modalities", "seeds"):
            names = getattr(self, key)
            if len(set(names)) != len(names):
                raise ValueError(f"{key} lists an entry twice: {', '.join(map(str, names))}")
        return self


def load(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks `path`; raises UserError for anything wrong in it."""
    try:
        tree = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run from the repository's root") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__}; a mapping of parameters is expected")
    return parse(tree, str(path))


def parse(tree: dict[str, Any], source: str = "params") -> Params:
    """Checks a tree of plain values; `source` is named in the error."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(_sentence(source, problem) for problem in error.errors())) from None


def _sentence(source: str, problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if not str(part).startswith("(")]  # without a union's tags
    key = ".".join(location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'; allowed beside it: {', '.join(_siblings(problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"{source}: key '{key}' is missing"
    given = "..." if key == "fetch.storage" else repr(problem["input"])  # it may hold a secret
    return f"{source}: {key} = {given} is not allowed: {problem['msg']}"


def _siblings(location: tuple[Any, ...]) -> list[str]:
    model: Any = Params
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not hasattr(field.annotation, "model_fields"):
            return []
        model = field.annotation
    return [field.alias or name for name, field in model.model_fields.items()]
