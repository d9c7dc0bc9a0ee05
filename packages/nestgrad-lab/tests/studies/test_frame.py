"""`nestgrad study`: pieces that are never worked on twice, settings, files, and what is said of wrong options."""

import json
import os
import re
import signal

import pytest

from nestgrad_lab.studies import catalogue


def read(lab, name="results.json", out="out"):
    return json.loads((lab.folder / out / name).read_text())


def contents(lab, out):
    """What a study leaves, but for the times in it."""
    files = ("results.json", "table.md", "numbers.png", "numbers.svg")
    return [(lab.folder / out / name).read_bytes() for name in files]


def test_the_studies_are_listed(lab):
    result = lab("study")
    assert result.exit_code == 0
    assert all(name in result.output for name in catalogue.NAMES)


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_a_study_is_whole(name):
    study = catalogue.find_study(name)
    assert study.name == name
    assert len(study.title) < 100
    for pair in study.settings.values():
        for settings in pair:
            pieces = study.pieces(settings)
            names = [piece.name for piece in pieces]
            assert len(set(names)) == len(names) > 0
            for k, piece in enumerate(pieces):
                assert set(piece.needs) <= set(names[:k])
                json.dumps(dict(piece.arguments))


def test_a_study_writes_its_tables_and_figures_and_prints_them(lab, adding):
    result = lab("study", "adding", "--out", "out")
    assert result.exit_code == 0, result.output
    assert adding == ["numbers", "sum"]
    told = read(lab)
    ((title, columns, rows),) = [tuple(table.values()) for table in told["tables"]]
    assert (title, columns[:2]) == ("Sums", ["what", "sum"])
    assert rows[0][2:] == [None, 3, True]
    assert f"{rows[0][1]:.4g}" in result.output
    assert "A note." in (lab.folder / "out" / "table.md").read_text()
    status = read(lab, "status.json")
    assert status["state"] == "finished"
    assert set(status["processor_seconds"]) == {"numbers", "sum"}


def test_seed_and_settings_decide_the_numbers(lab, adding):
    sums = {}
    for name, options in {
        "plain": (),
        "again": ("--settings", "plain"),
        "tenfold": ("--settings", "tenfold"),
        "set": ("--set", "factor=20"),
        "seed": ("--seed", "1"),
        "full": ("--full",),
    }.items():
        assert lab("study", "adding", *options, "--out", name).exit_code == 0
        sums[name] = read(lab, out=name)["tables"][0]["rows"][0][1]
    assert sums["plain"] == sums["again"]
    assert sums["tenfold"] == sums["set"] == pytest.approx(10 * sums["plain"])
    assert len({sums["plain"], sums["seed"], sums["full"]}) == 3
    assert read(lab, out="full")["settings"]["count"] == 30


def test_a_crash_loses_one_piece_and_resume_ends_with_the_same_bytes(lab, adding):
    assert lab("study", "adding", "--out", "whole").exit_code == 0
    del adding[:]
    adding.fails = RuntimeError("a crash")
    assert isinstance(lab("study", "adding", "--out", "out").exception, RuntimeError)
    assert read(lab, "status.json")["state"] == "failed"
    adding.fails = None
    result = lab("study", "adding", "--resume", "--out", "out")
    assert result.exit_code == 0, result.output
    assert adding == ["numbers", "sum", "sum"]
    assert contents(lab, "out") == contents(lab, "whole")


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to oneself")
def test_an_interrupt_takes_effect_at_the_next_tick(lab, adding, monkeypatch):
    right = adding.work

    def interrupted(settings, piece, context):
        if piece.name == "sum":
            os.kill(os.getpid(), signal.SIGINT)
        return right(settings, piece, context)

    study = catalogue.find_study("adding")
    monkeypatch.setattr(catalogue, "find_study", lambda name: study)
    object.__setattr__(study, "work", interrupted)
    result = lab("study", "adding", "--out", "out")
    assert result.exit_code == 130
    assert "1 of 2 pieces finished. --resume goes on." in result.output
    assert read(lab, "status.json")["state"] == "interrupted"
    object.__setattr__(study, "work", right)
    assert lab("study", "adding", "--resume", "--out", "out").exit_code == 0
    assert adding == ["numbers", "sum", "sum"]


def test_a_damaged_piece_is_worked_on_again(lab, adding):
    assert lab("study", "adding", "--out", "out").exit_code == 0
    before = contents(lab, "out")
    (damaged,) = (lab.folder / "out" / "pieces").glob("sum-*/*.safetensors")
    damaged.write_bytes(b"not it")
    result = lab("study", "adding", "--resume", "--out", "out")
    assert result.exit_code == 0, result.output
    assert "is passed over" in result.output
    assert adding == ["numbers", "sum", "sum"]
    assert contents(lab, "out") == before


def test_resume_without_options_takes_the_folders_own(lab, adding):
    assert lab("study", "adding", "--seed", "5", "--set", "count=7", "--out", "out").exit_code == 0
    before = contents(lab, "out")
    assert lab("study", "adding", "--resume", "--out", "out").exit_code == 0
    assert contents(lab, "out") == before
    assert lab("report", "out").exit_code == 0
    assert contents(lab, "out") == before
    assert adding == ["numbers", "sum"]


def test_report_refuses_an_unfinished_study(lab, adding):
    adding.fails = RuntimeError("a crash")
    lab("study", "adding", "--out", "out")
    result = lab("report", "out")
    assert result.exit_code == 2
    assert "1 pieces are not finished (sum), limit: 0" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("addng",), "'addng': no such study, limit: adding. Nearest: 'adding'"),
        (("adding", "--settings", "plane"), "'plane' of study adding, limit: 'plain', 'tenfold'. Nearest: 'plain'"),
        (("adding", "--set", "cont=3"), "no entry 'cont', limit: count, .* Nearest: 'count'"),
        (("adding", "--set", "count=3.5"), "'count=3.5' of study adding, limit: a value like 3"),
        (("adding", "--set", "count"), "limit: a value like 3"),
        (("adding", "--set", "loud=perhaps"), "limit: a value like False"),
        (("adding", "--set", "parts=1,two"), r"limit: a value like 1\.0,2\.0"),
        (("adding", "--set", "word="), "limit: a value like sum"),
        (("adding", "--seed", "-1"), "--seed -1, limit: at least 0"),
        (("adding", "--backend", "jax"), "study adding has no such version, limit: torch. Remedy: --backend torch"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(lab, adding, options, said):
    result = lab("study", *options, "--out", "out")
    assert result.exit_code == 2
    assert re.search(said, result.stderr), result.stderr
    assert not lab.contents()
    assert not adding


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "holds earlier work"),
        (("--resume", "--seed", "3"), "was begun with other options"),
        (("--resume", "--set", "count=4"), "was begun with other options"),
    ],
)
def test_a_folder_is_never_written_over(lab, adding, options, said):
    assert lab("study", "adding", "--out", "out").exit_code == 0
    before = contents(lab, "out")
    result = lab("study", "adding", *options, "--out", "out")
    assert result.exit_code == 2
    assert said in result.stderr
    assert contents(lab, "out") == before


def test_words_and_flags_and_lists_are_read_as_the_entry_is(adding):
    study = catalogue.find_study("adding")
    settings = catalogue.choose_settings(study, None, ["loud=True", "parts=3,4.5,6", "word=x=y"], full=False)
    assert (settings.loud, settings.parts, settings.word) == (True, (3.0, 4.5, 6.0), "x=y")
