"""How every stage script starts and ends: logging, parameters, and errors as sentences."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable

from pipeline import params
from pipeline.errors import UserError


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
