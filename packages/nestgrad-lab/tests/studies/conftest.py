"""Small images in place of MNIST, and a study of two pieces that adds numbers."""

import dataclasses
import types

import numpy as np
import pytest

from nestgrad_lab.studies import catalogue
from nestgrad_lab.studies.study import Piece, Study, Table


@pytest.fixture
def digits(monkeypatch):
    """scikit-learn's digits where a study asks for MNIST."""
    from nestgrad_lab.data import load

    found = load("digits")
    for module in ("torch_linear", "torch_draws"):
        monkeypatch.setattr(f"nestgrad_lab.studies.{module}.load", lambda name: found)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    count: int = 3
    factor: float = 2.0
    word: str = "sum"
    loud: bool = False
    parts: tuple[float, ...] = (1.0, 2.0)


class Adding(list):
    """The names of the pieces worked on; `fails` is raised by the second."""

    fails: BaseException | None = None
    stop = None

    def pieces(self, settings):
        return [Piece("numbers", {"count": settings.count}), Piece("sum", needs=("numbers",))]

    def work(self, settings, piece, context):
        self.append(piece.name)
        context.tick(0.5)
        if piece.name == "numbers":
            rng = np.random.default_rng(context.seed)
            return {"values": settings.factor * rng.normal(size=piece.arguments["count"])}
        if self.fails is not None:
            raise self.fails
        return {"sum": context.results["numbers"]["values"].sum()}

    def tables(self, settings, results):
        rows = [[settings.word, float(results["sum"]["sum"]), float("nan"), settings.count, True]]
        return [Table("Sums", ["what", "sum", "none", "count", "done"], rows, ["A note."])]

    def figures(self, settings, results):
        from nestgrad_lab.drawing import new_figure

        figure = new_figure(3, 2)
        figure.subplots().plot(results["numbers"]["values"])
        return {"numbers": figure}


@pytest.fixture
def adding(monkeypatch):
    """What the study "adding" has done; it is the only one."""
    done = Adding()
    study = Study(
        name="adding",
        title="What is the sum?",
        note="None.",
        settings={"plain": (Settings(), Settings(count=30)), "tenfold": (Settings(factor=20.0), Settings())},
        pieces=done.pieces,
        work=done.work,
        tables=done.tables,
        figures=done.figures,
    )
    monkeypatch.setattr(catalogue, "NAMES", ("adding",))
    monkeypatch.setattr(catalogue, "_module", lambda name: types.SimpleNamespace(STUDY=study))
    return done
