"""How every stage script starts and ends: logging, parameters, and errors as sentences."""

from __future__ import annotations

import argparse
import inspect
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import params
from pipeline.errors import UserError

ROOT = Path(__file__).parents[1]
_TEMPLATE = re.compile(r"\$\{(?:\w+\.)*(\w+)\}")


def code(stage: str, **chosen: str) -> list[str]:
    """The modules that decide the stage's bytes: its dependencies on code in `dvc.yaml`, named there once.

    chosen: what stands for the templates' names, by the last word: `student="unet"` for `${item.student}`.
    """
    from ruamel.yaml import YAML

    pipeline = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
    depends = (_TEMPLATE.sub(lambda name: chosen[name[1]], each) for each in pipeline["stages"][stage]["deps"])
    places = [ROOT / each for each in depends if each.startswith(("pipeline/", "stages/"))]
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    names = (file.relative_to(ROOT).with_suffix("").parts for file in files if file.suffix == ".py")
    return sorted({".".join(parts).removesuffix(".__init__") for parts in names})


def run(main: Callable[..., None]) -> None:
    """Runs `main(params, **arguments)`; each further parameter of `main` is a `--name value` option, one with a
    default may be left out.

    A `UserError` is printed as one message and the process exits with 1.
    """
    name = inspect.getmodule(main).__spec__.name.rpartition(".")[2]  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}", description=main.__doc__)
    for option in list(inspect.signature(main).parameters.values())[1:]:
        required = option.default is option.empty
        kind = str if required else type(option.default)
        parser.add_argument(f"--{option.name}", required=required, default=option.default, type=kind)
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format=f"{name}: %(message)s", stream=sys.stderr)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    try:
        main(params.load(), **arguments)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
