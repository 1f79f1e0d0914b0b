"""Name -> "module:Class", imported only when chosen, so that heavy libraries load where they are used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import UserError


class Registry(Mapping[str, str]):
    """A room's table of names.

    >>> STUDENTS = Registry("student", {"unet": "pipeline.students.unet:UNet"})
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        try:
            return self._entries[name]
        except KeyError:
            raise UserError(f"unknown {self.kind} '{name}'; known: {', '.join(self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """Imports and returns the class behind `name`; raises UserError for an unknown name."""
        module, _, attribute = self[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
