"""The studies that come with the lab, and how one and its settings are chosen."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from nestgrad_lab.errors import OptionError
from nestgrad_lab.experiments.entries import nearest
from nestgrad_lab.studies.study import Study

NAMES = (
    "response-curve",
    "many-decays",
    "gaussian-process",
    "inverse-accuracy",
    "overfit-validation",
    "million-decays",
    "distillation",
    "augmentation",
    "recurrent-regularisation",
    "split-retrain",
    "game-rates",
    "mixed-games",
    "mixture-gan",
    "logistic-map",
    "prisoners-dilemma",
    "two-player-maps",
    "gan-exponents",
)
"""In the order of the thesis; `a-b` is the module nestgrad_lab.studies.a_b."""


def find_study(name: str) -> Study:
    """The study of this name; OptionError where there is none."""
    if name not in NAMES:
        raise OptionError(
            f"study {name!r}: no such study, limit: {', '.join(NAMES)}.{nearest(name, NAMES)} "
            "Remedy: nestgrad study lists them."
        )
    return _module(name).STUDY


def all_studies() -> list[Study]:
    """In the order of NAMES."""
    return [find_study(name) for name in NAMES]


def choose_settings(study: Study, name: str | None, changes: Sequence[str], *, full: bool) -> Any:
    """The settings of this name (None: the default), small or full, with the changes NAME=VALUE made."""
    known = list(study.settings)
    if name is not None and name not in known:
        raise OptionError(
            f"--settings {name!r} of study {study.name}, limit: {', '.join(map(repr, known))}.{nearest(name, known)} "
            "Remedy: name one of these."
        )
    settings = study.settings[known[0] if name is None else name][full]
    given = dict(_change(study, settings, text) for text in changes)
    return replace(settings, **given)


def _change(study: Study, settings: Any, text: str) -> tuple[str, Any]:
    """The entry and its new value, of the kind that it has."""
    name, sign, value = text.partition("=")
    known = [field.name for field in fields(settings)]
    if name not in known:
        raise OptionError(
            f"--set {text!r} of study {study.name}: no entry {name!r}, limit: {', '.join(known)}.{nearest(name, known)}"
            " Remedy: name one of these."
        )
    before = getattr(settings, name)
    try:
        return name, _read(value if sign else "", before)
    except ValueError:
        raise OptionError(
            f"--set {text!r} of study {study.name}, limit: a value like {_shown(before)}. "
            f"Remedy: --set {name}={_shown(before)}."
        ) from None


def _read(value: str, before: Any) -> Any:
    """The text as a value of the kind that stood there; of a tuple, parts between commas."""
    if isinstance(before, tuple):
        return tuple(_read(part, before[0]) for part in value.split(","))
    if isinstance(before, bool):
        return ("false", "true").index(value.lower()) == 1
    found = type(before)(value)
    if isinstance(found, str) and not found:
        raise ValueError
    return found


def _shown(value: Any) -> str:
    return ",".join(map(_shown, value)) if isinstance(value, tuple) else str(value)


def _module(name: str) -> Any:
    return importlib.import_module(f"nestgrad_lab.studies.{name.replace('-', '_')}")
