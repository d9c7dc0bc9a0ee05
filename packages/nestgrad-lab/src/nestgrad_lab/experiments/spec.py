"""An experiment's file: TOML, checked word by word.

```toml
title = "Table 1 of Clarke et al. 2022, UCI Energy"
data = ["uci/energy"]                      # or tables: {name = "uci/energy", validation = 0.25, split = 1}
algorithms = ["Random", "Ours WD+LR+M"]
network = "mlp"                            # or "lstm", "resnet-18"; with sizes of its own
hidden = 50
starts = 64
steps = 4000
figures = ["distribution", "curves"]

[[variant]]                                # an algorithm under a new name, with other numbers
name = "Ours, state carried"
of = "Ours WD+LR+M"
carry = "weights_and_state"

[grid]                                     # an algorithm for each pair of interval and look-back
of = "Ours WD+LR+M"
every = [1, 2, 5, 10]
lookback = [1, 2, 5, 10]
```
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from nestgrad_lab.engines import CARRIES, Inner
from nestgrad_lab.errors import OptionError
from nestgrad_lab.experiments.algorithms import ALGORITHMS, Algorithm, Rule, Search
from nestgrad_lab.experiments.entries import nearest, require_usable
from nestgrad_lab.networks import SIZES


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """A data set, in its own split or in another.

    validation: this share of the rows that are not test rows validates, instead of the set's own number. split: 0 for
    the set's own order of training and validation rows, else the seed of another one; test rows stay. held: at most so
    many validation and so many test rows, evenly spaced among all. Of a text, window: words in a row, and vocabulary:
    words that are told apart.
    """

    name: str
    validation: float | None = None
    split: int = 0
    held: int | None = None
    window: int | None = None
    vocabulary: int | None = None

    @property
    def title(self) -> str:
        """What tables call it."""
        told = {
            f"{self.vocabulary} words": self.vocabulary is not None,
            f"windows of {self.window}": self.window is not None,
            f"{self.validation or 0.0:.0%} validation": self.validation is not None,
            f"split {self.split}": self.split,
            f"{self.held} held rows": self.held is not None,
        }
        return ", ".join([self.name, *(words for words, said in told.items() if said)])


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What decides an experiment's numbers, and what is told of them.

    batch: rows of a training and of a validation batch; None for all. network: what is trained; hidden, layers, width:
    its sizes, None for those of the paper (see nestgrad_lab.networks). clip: the largest norm of a gradient. block: so
    many starts, at most, are trained at once. looks: losses are looked at about so often in a run, at the ends of
    intervals. resamples: of the bootstrap.
    """

    name: str
    title: str
    data: tuple[DataChoice, ...]
    algorithms: tuple[str, ...]
    starts: int
    steps: int
    batch: int | None = None
    network: str = "mlp"
    hidden: int | None = None
    layers: int | None = None
    width: int | None = None
    clip: float | None = None
    seed: int = 0
    dtype: str = "float32"
    backend: str = "torch"
    block: int = 64
    looks: int = 400
    resamples: int = 1000
    figures: tuple[str, ...] = ()
    note: str = ""
    variants: Mapping[str, Algorithm] = field(default_factory=dict[str, Algorithm])

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the network, each as given or as in the paper."""
        given = {name: getattr(self, name) for name in SIZES[self.network]}
        return {name: SIZES[self.network][name] if value is None else value for name, value in given.items()}

    def algorithm(self, name: str) -> Algorithm:
        """The algorithm of this name, the experiment's own or a common one."""
        return self.variants.get(name) or ALGORITHMS[name]

    def fingerprint(self, *parts: Any) -> str:
        """SHA-256 of all that decides the numbers of the parts given."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()

    def varied(self, **options: Any) -> Experiment:
        """The same with these options of the command line; None leaves one as it is."""
        given = {name: value for name, value in options.items() if value is not None}
        if chosen := given.get("data"):
            given["data"] = tuple(DataChoice(name=name) for name in chosen)
        return _checked(replace(self, **given))


def shipped() -> dict[str, str]:
    """Name and title of the experiments that come with the lab."""
    return {path.stem: tomllib.loads(path.read_text())["title"] for path in _library()}


def find_experiment(name: str) -> Experiment:
    """The shipped experiment of this name, or that in a file NAME.toml; OptionError where there is neither."""
    library = {path.stem: path for path in _library()}
    if name in library:
        return parse(library[name].read_text(), name)
    if name.endswith(".toml") and Path(name).is_file():
        return parse(Path(name).read_text(), Path(name).stem)
    near = nearest(name, library)
    raise OptionError(
        f"experiment {name!r}: no such file and not shipped, limit: {', '.join(library)}.{near} "
        "Remedy: name one of these, or a file that ends in .toml."
    )


def parse(text: str, name: str) -> Experiment:
    """The experiment of a file's text; OptionError naming the entry that is wrong."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"experiment {name}: {error}, limit: TOML. Remedy: mend that place.") from None
    variants = _variants(raw.pop("variant", []), name)
    names = list(raw.get("algorithms", []))
    if "grid" in raw:
        grid = _grid(raw.pop("grid"), variants, name)
        variants |= grid
        names += list(grid)
    data = [_entry(DataChoice, {"name": one} if isinstance(one, str) else one, name) for one in raw.pop("data", [])]
    entries = {**raw, "name": name, "data": tuple(data), "algorithms": tuple(names), "variants": variants}
    if "figures" in entries:
        entries["figures"] = tuple(entries["figures"])
    return _checked(_entry(Experiment, entries, name))


def _variants(raw: Iterable[Mapping[str, Any]], where: str) -> dict[str, Algorithm]:
    found: dict[str, Algorithm] = {}
    for one in raw:
        changes = dict(one)
        try:
            name, of = changes.pop("name"), changes.pop("of")
        except KeyError as missing:
            raise OptionError(f"experiment {where}, variant {one}: no {missing}. Remedy: give name and of.") from None
        found[name] = _varied(_known(of, found, where), changes, f"{where}, variant {name!r}")
    return found


def _grid(raw: Mapping[str, Any], variants: Mapping[str, Algorithm], where: str) -> dict[str, Algorithm]:
    """An algorithm for each pair; an unrolled window is never longer than the interval."""
    of = raw["of"]
    base = _known(of, variants, where)
    return {
        grid_name(of, every, lookback): replace(base, every=every, lookback=lookback)
        for every in raw["every"]
        for lookback in raw["lookback"]
        if base.rule != "unrolled" or lookback <= every
    }


def grid_name(of: str, every: int, lookback: int) -> str:
    """What a point of a grid is called."""
    return f"{of}, T={every}, i={lookback}"


def _known(name: str, variants: Mapping[str, Algorithm], where: str) -> Algorithm:
    if found := variants.get(name) or ALGORITHMS.get(name):
        return found
    known = [*variants, *ALGORITHMS]
    raise OptionError(
        f"experiment {where}: algorithm {name!r}, limit: {', '.join(known)}.{nearest(name, known)} "
        "Remedy: name one of these, or a variant."
    )


def _varied(base: Algorithm, changes: Mapping[str, Any], where: str) -> Algorithm:
    _require_known(changes, Algorithm, where)
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    changed = replace(base, **listed)
    for entry, value, limit in [
        ("rule", changed.rule, get_args(Rule)),
        ("carry", changed.carry, CARRIES),
        ("inner", changed.inner, get_args(Inner)),
        ("search", changed.search, get_args(Search)),
    ]:
        if value not in limit:
            raise OptionError(f"experiment {where}: {entry} {value!r}, limit: {', '.join(limit)}. Remedy: name one.")
    return changed


def _entry(kind: Any, raw: Mapping[str, Any], where: str) -> Any:
    _require_known(raw, kind, where)
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in needed if name not in raw]:
        raise OptionError(f"experiment {where}: no entry {missing[0]!r}, limit: 1. Remedy: add it.")
    return kind(**raw)


def _require_known(raw: Mapping[str, Any], kind: Any, where: str) -> None:
    known = [one.name for one in fields(kind)]
    for name in raw:
        if name not in known:
            raise OptionError(
                f"experiment {where}: unknown entry {name!r}, limit: {', '.join(known)}.{nearest(name, known)} "
                "Remedy: mend its name, or leave it out."
            )


def _checked(experiment: Experiment) -> Experiment:
    """The experiment, once its numbers and names can be used."""
    for name in experiment.algorithms:
        _known(name, experiment.variants, experiment.name)
    require_usable(experiment)
    return experiment


def _library() -> list[Any]:
    folder = importlib.resources.files("nestgrad_lab.experiments") / "library"
    return sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name)


def _plain(value: Any) -> Any:
    return asdict(value)
