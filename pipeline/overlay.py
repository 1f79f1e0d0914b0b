"""Ready settings: an overlay names some keys of params.yaml and their values, and is merged into that file.

The file's comments, order and layout stay. The result is checked before anything is written. An overlay may
build on another one, named by `extends` relative to its own folder; what both set, it decides.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, MutableMapping, MutableSequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from pipeline import params, work
from pipeline.errors import UserError


def apply(overlay: Path, target: Path = params.PARAMS_FILE) -> dict[str, Any]:
    """Merges `overlay` into `target` and returns the values that changed, by dotted key.

    Mappings are merged, anything else is replaced. Raises UserError, and leaves `target` as it was, if a file
    is missing or not YAML, a key is unknown, or a value is not allowed.
    """
    yaml = _round_trip()
    tree, layers = _read(yaml, target), _layers(yaml, overlay, ())
    params.parse(_plain(tree), str(target))  # so that the overlay is not blamed for what was wrong before
    before = copy.deepcopy(tree)
    for additions in layers:
        _merge(tree, additions)
    params.parse(_plain(tree), f"{target} with {overlay}")
    text = io.StringIO()
    yaml.dump(tree, text)
    with work.replacing(target) as temporary:
        temporary.write_text(text.getvalue())
    old = dict(_leaves(before))
    return {key: value for key, value in _leaves(tree) if key not in old or old[key] != value}


def _round_trip() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is folded
    return yaml


def _read(yaml: YAML, path: Path) -> Any:
    try:
        tree = yaml.load(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is missing; ready settings lie in experiments/") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, MutableMapping):
        raise UserError(f"{path} holds {type(tree).__name__}; a mapping of parameters is expected")
    return tree


def _layers(yaml: YAML, path: Path, above: tuple[Path, ...]) -> list[MutableMapping[str, Any]]:
    """The overlay behind those that it builds on. `above`: the overlays that led here."""
    if path.resolve() in above:
        raise UserError(f"{path} extends itself, by way of {above[-1].name}; an overlay builds on others alone")
    additions = _read(yaml, path)
    base = additions.pop("extends", None)
    if base is None:
        return [additions]
    if not isinstance(base, str):
        raise UserError(f"{path}: extends is {base!r}; the path of another overlay is expected")
    return [*_layers(yaml, path.parent / base, (*above, path.resolve())), additions]


def _merge(tree: Any, additions: MutableMapping[str, Any], depth: int = 0) -> None:
    for key, value in additions.items():
        old = tree.get(key)
        if isinstance(value, MutableMapping) and isinstance(old, MutableMapping):
            _merge(old, value, depth + 1)
        elif isinstance(value, MutableSequence) and isinstance(old, MutableSequence):
            old[:] = value  # in place: the comment behind a list belongs to the list
        elif key in tree or not tree or depth == 0:
            tree[key] = value
        else:  # before the last key: behind it, the key would follow the blank line that ends the section
            tree.insert(len(tree) - 1, key, value)


def _plain(tree: Any) -> Any:
    """The tree as a safe loader would have read it."""
    text = io.StringIO()
    _round_trip().dump(tree, text)
    return YAML(typ="safe", pure=True).load(text.getvalue())


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, MutableMapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
