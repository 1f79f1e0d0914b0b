"""The card beside an exported student: README.md with the front matter that huggingface.co reads."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline import export, paths
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.serving.spec import Spec, in_words

COPERNICUS = (
    'ERA5 by ECMWF for the Copernicus Climate Change Service, whose licence asks for attribution: "Generated using '
    'Copernicus Climate Change Service information". See also the terms of {}.'
)
SIMULATED = "Simulated by s2kd itself, from a seed; nobody else's rights are in it."
DATA_LICENCES = {
    "weather_twin": SIMULATED,
    "traffic_twin": SIMULATED,
    "fire_twin": SIMULATED,
    "weatherbench": COPERNICUS.format("WeatherBench (doi 10.14459/2019mp1524895)"),
    "weatherbench2": COPERNICUS.format("WeatherBench 2"),
}
UNKNOWN = "not known to s2kd. State here where the data come from and what their owner allows."


def card(spec: Spec, params: Params, metrics: dict[str, Any]) -> str:
    """The page. `metrics`: what `metrics.json` holds.

    Raises UserError where the evaluation is missing, or has not scored this student in 8 bits where they are.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    template = environment.from_string(resources.files("pipeline").joinpath("model_card.md.j2").read_text())
    setup = _evaluated("setup.json")
    text: str = template.render(
        spec=spec,
        licence=params.export.licence,
        data_licence=DATA_LICENCES.get(spec.reader.dataset, UNKNOWN),
        simulated=spec.reader.dataset.endswith("_twin"),
        description=spec.description,
        names=", ".join(each.name for each in spec.variables),
        duration=in_words,
        opset=export.OPSET,
        setup=setup,
        stamps={"calendar": "UTC", "local": "local time", "nominal": "nominal time stamps"}[spec.time_stamps],
        of_seeds=_of_seeds(params.seeds),
        metrics=metrics,
        int8=metrics.get("int8"),
        precisions=_precisions(spec) if "int8" in metrics else None,
        **_table(spec, setup["metrics"], _evaluated("metrics.json")),
    )
    return f"{text}\n"


def _table(spec: Spec, definitions: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Columns are the metrics that are one number over all variables; rows this student, its baseline and the rest."""
    names = [name for name, definition in definitions.items() if definition["across_variables"]]
    own = tree.get(spec.student, {})
    leaves = {f"**this student ({spec.method})**": own.get(spec.method, {})}
    if spec.method != "baseline":
        leaves["the same without a teacher"] = own.get("baseline", {})
    leaves |= {name: leaf for name, leaf in tree.items() if all(not isinstance(value, dict) for value in leaf.values())}
    rows = [{"title": title, "values": [_number(leaf.get(name)) for name in names]} for title, leaf in leaves.items()]
    present = [row for row in rows if any(row["values"])]
    return {"columns": [definitions[name] for name in names], "rows": present}


def _precisions(spec: Spec) -> Any:
    """The test scores of this student in float32 and in 8 bits."""
    name = "int8.json"
    found = _evaluated(name)
    scored, exported = found["run"], {"model": spec.student, "method": spec.method, "seed": spec.seed}
    if scored != exported:
        title = "{model} by {method}, seed {seed}".format(**scored)
        raise UserError(
            f"{paths.EVALUATE / name} is of {title}, and {spec.title} is exported; run `dvc repro evaluate`"
        )
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _of_seeds(seeds: tuple[int, ...]) -> str:
    return "" if len(seeds) == 1 else f"mean over the seeds {', '.join(map(str, seeds))}, of which this is one"


def _evaluated(name: str) -> Any:
    path: Path = paths.EVALUATE / name
    if not path.is_file():
        raise UserError(f"{path} is missing; `dvc repro evaluate` makes it")
    return json.loads(path.read_text())
