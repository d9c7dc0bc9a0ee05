"""Bad input gets one message of ours, exit code 2, and nothing is written."""

import pytest

ROWS = [f"{i},{i % 7},{i * 0.5 + 0.25}" for i in range(20)]


def csv(*changes: tuple[int, str], header: str = "a,b,y") -> str:
    rows = list(ROWS)
    for at, row in changes:
        rows[at] = row
    return "\n".join([header, *rows]) + "\n"


FILES = {
    "good.csv": csv(),
    "text.csv": csv((4, "4,red,1.5")),
    "nan.csv": csv((6, "6,NaN,1.5")),
    "empty-cell.csv": csv((2, "2,,1.5")),
    "inf.csv": csv((3, "inf,1,1.5")),
    "target-nan.csv": csv((7, "7,1,NA")),
    "target-word.csv": csv((8, "8,1,oops")),
    "one-class.csv": "a,y\n" + "".join(f"{i},same\n" for i in range(20)),
    "constant.csv": "a,y\n" + "".join(f"{i},0.5\n" for i in range(20)),
    "ids.csv": "a,y\n" + "".join(f"{i},id{i}\n" for i in range(20)),
    "no-class.csv": "a,y\n" + "".join(f"{i},{'' if i == 5 else 'ab'[i % 2]}\n" for i in range(20)),
    "short.csv": "a,b,y\n1,2,3.5\n",
    "ragged.csv": csv((5, "1,2,3,4,5")),
    "twice.csv": csv(header="a,a,y"),
    "empty.csv": "",
    "only-target.csv": "y\n" + "".join(f"{i}.5\n" for i in range(20)),
}

TABLE = ("--data", "good.csv", "--target", "y")
CASES = {
    "missing file": (("--data", "absent.csv", "--target", "y"), "'absent.csv': no such file"),
    "folder as file": (("--data", ".", "--target", "y"), "is a folder"),
    "unknown uci set": (("--data", "uci/iris"), "limit: boston, concrete, energy"),
    "no target": (("--data", "good.csv"), "--target COLUMN"),
    "missing column": (("--data", "good.csv", "--target", "z"), "no column 'z' (--target), limit: a, b, y"),
    "missing dropped column": ((*TABLE, "--drop", "z"), "no column 'z' (--drop)"),
    "no inputs": (("--data", "only-target.csv", "--target", "y"), "0 input columns"),
    "target for digits": (("--target", "y"), "a target and a task of its own"),
    "unknown task": ((*TABLE, "--task", "ranking"), "limit: regression or classification"),
    "text in a numeric column": (("--data", "text.csv", "--target", "y"), "row 5 of column 'b' is text: 'red'"),
    "NaN in data": (("--data", "nan.csv", "--target", "y"), "row 7 of column 'b' is missing ('NaN')"),
    "empty cell": (("--data", "empty-cell.csv", "--target", "y"), "row 3 of column 'b' is empty"),
    "infinity": (("--data", "inf.csv", "--target", "y"), "row 4 of column 'a' is beyond"),
    "NaN in target": (("--data", "target-nan.csv", "--target", "y"), "row 8 of column 'y' is missing ('NA')"),
    "word in target": (("--data", "target-word.csv", "--target", "y"), "row 9 of column 'y' is text: 'oops'"),
    "one class": (("--data", "one-class.csv", "--target", "y"), "1 class only, 'same'"),
    "constant target": (("--data", "constant.csv", "--target", "y"), "the target is 0.5 in all 16"),
    "as many classes as rows": (("--data", "ids.csv", "--target", "y"), "20 classes in 20 rows"),
    "row without class": (("--data", "no-class.csv", "--target", "y"), "row 6 of column 'y' has no class"),
    "too few rows": (("--data", "short.csv", "--target", "y"), "1 rows, limit: at least 10"),
    "ragged rows": (("--data", "ragged.csv", "--target", "y"), "rows differ in length"),
    "column twice": (("--data", "twice.csv", "--target", "y"), "2 columns are called 'a'"),
    "empty file": (("--data", "empty.csv", "--target", "y"), "0 columns"),
    "unknown backend": (("--backend", "tensorfoo"), "'tensorfoo' is not installed, limit: torch"),
    "backend without engine": (("--backend", "reference"), "has no training engine in the lab"),
    "unknown method": (("--method", "magic"), "limit: neumann, identity, dense"),
    "method that is not built": (("--method", "soba"), "SOBA is not built"),
    "method that tuning refuses": (("--method", "cg"), "CG is no method of this command, limit: neumann"),
    "look-back of a method without": (("--method", "identity", "--lookback", "3"), "limit: --method neumann"),
    "negative look-back": (("--lookback", "-1"), "--lookback -1, limit: at least 1"),
    "zero look-back": (("--lookback", "0"), "--lookback 0, limit: at least 1"),
    "negative learning rate": (("--lr", "-0.1"), "'--lr': Log10 value -0.1, limit: strictly between 0"),
    "zero learning rate": (("--lr", "0"), "'--lr': Log10 value 0.0, limit: strictly between 0"),
    "learning rate beyond the clip": (("--lr", "2"), "--lr 2: beyond the range"),
    "NaN learning rate": (("--lr", "nan"), "'--lr': Log10 value nan"),
    "momentum of one": (("--momentum", "1"), "'--momentum': Logit value 1.0, limit: strictly between 0 and 1"),
    "zero weight decay": (("--weight-decay", "0"), "'--weight-decay': Log10 value 0.0"),
    "zero steps": (("--steps", "0"), "--steps 0, limit: at least 1"),
    "fewer steps than a hyper step": (("--steps", "5"), "no hyper step is due before step 10"),
    "zero every": (("--every", "0"), "--every 0, limit: at least 1"),
    "zero batch": (("--batch-size", "0"), "--batch-size 0, limit: at least 1"),
    "batch beyond the rows": ((*TABLE, "--batch-size", "500"), "limit 12, the training rows of good"),
    "no hidden units": (("--hidden", "0"), "--hidden 0, limit: at least 1"),
    "negative seed": (("--seed", "-1"), "--seed -1, limit: at least 0"),
    "unknown dtype": (("--dtype", "float16"), "limit: float32 or float64"),
    "unknown device in torch": (("--backend", "torch", "--device", "toaster"), "--device 'toaster'"),
    "device without numbers": (("--backend", "torch", "--device", "meta"), "--device 'meta'"),
    "unknown device in jax": (("--backend", "jax", "--device", "toaster"), "jax has no such device, limit: cpu:0"),
    "device number beyond": (("--backend", "jax", "--device", "cpu:99"), "jax has no such device, limit: cpu:0"),
    "run folder that exists": (("--out", "there"), "run folder there exists, limit: a new one"),
    "run folder under a file": (("--out", "good.csv/run"), "cannot be written"),
}


@pytest.fixture
def prepared(lab):
    for name, text in FILES.items():
        (lab.folder / name).write_text(text, encoding="utf-8")
    (lab.folder / "there").mkdir()
    return lab


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_with_exit_code_two_and_nothing_written(prepared, case):
    arguments, message = CASES[case]
    if "jax" in arguments:
        pytest.importorskip("nestgrad_jax")
    before = prepared.contents()
    result = prepared("tune", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "emedy: " in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr) < 1200
    assert prepared.contents() == before


def test_wrong_bytes_are_named(prepared):
    (prepared.folder / "latin.csv").write_bytes(b"a,y\n\xe9,1\n")
    result = prepared("tune", "--data", "latin.csv", "--target", "y")
    assert result.exit_code == 2
    assert "is not UTF-8" in result.stderr


def test_a_read_only_place_is_named(prepared, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nestgrad_lab.runs.tempfile.mkdtemp", refuse)
    before = prepared.contents()
    result = prepared("tune", *TABLE, "--out", "new")
    assert result.exit_code == 2
    assert "new cannot be written: Permission denied" in result.stderr
    assert prepared.contents() == before


def test_no_installed_backend_is_named_with_the_remedy(prepared, monkeypatch):
    monkeypatch.setattr("nestgrad_lab.engines.engine.available_backends", dict)
    result = prepared("tune", *TABLE)
    assert result.exit_code == 2
    assert "pip install 'nestgrad-lab[torch]'" in result.stderr


def test_a_method_that_this_backend_lacks_names_those_it_has(prepared, monkeypatch):
    import nestgrad_torch
    from nestgrad import Dense

    lacking = lambda spec: spec is not Dense  # noqa: E731
    monkeypatch.setattr(nestgrad_torch, "supports", lacking)
    result = prepared("tune", *TABLE, "--backend", "torch", "--method", "dense")
    assert result.exit_code == 2
    assert "backend 'torch' lacks it, limit: neumann, identity" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("energie",), "experiment 'energie': no such file and not shipped"),
        (("energy", "--algorithm", "Ours"), "algorithm 'Ours', limit: Random, "),
        (("energy", "--data", "uci/moon"), "--data uci/moon: no such set"),
        (("energy", "--starts", "0"), "starts = 0, limit: a whole number, at least 1"),
        (("energy", "--steps", "0"), "steps = 0, limit: a whole number, at least 1"),
        (("energy", "--dtype", "int8"), "limit: float32 or float64"),
        (("energy", "--jobs", "0"), "--jobs 0, limit: at least 1"),
        (("energy", "--backend", "tensor"), "--backend 'tensor' is not installed"),
        (("energy", "--out", "good.csv"), "good.csv/options.json: "),
    ],
)
def test_bad_input_to_experiment_is_named(prepared, monkeypatch, arguments, message):
    from nestgrad_lab.data import load

    known = lambda name: load("good.csv", target="y") if name == "uci/energy" else load(name)  # noqa: E731
    monkeypatch.setattr("nestgrad_lab.experiments.cells.load", known)
    before = prepared.contents()
    result = prepared("experiment", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert prepared.contents() == before


def test_a_folder_without_an_experiment_is_named(prepared):
    result = prepared("report", "there")
    assert result.exit_code == 2
    assert "there: no experiment was begun there" in result.stderr
