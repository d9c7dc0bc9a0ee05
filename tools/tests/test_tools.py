"""The maintainers' scripts find what they are for."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import check_dists
import check_imports
import pytest
import support_table

import nestgrad

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from nestgrad._spaces import LN10", ["nestgrad._spaces.LN10"]),
        ("from nestgrad import _spaces", ["nestgrad._spaces"]),
        ("import nestgrad._spaces", ["nestgrad._spaces"]),
        ("import torch as t\nt._C.x", ["torch._C"]),
        ("import torch.nn\ntorch.nn._reduction", ["torch.nn._reduction"]),
        ("from nestgrad_torch import tuners\ntuners.one_pass._clip", ["nestgrad_torch.tuners.one_pass._clip"]),
        ("from nestgrad_lab._runs import folder", []),
        ("import nestgrad\nnestgrad.__version__\nself._own\nfrom __future__ import annotations", []),
    ],
)
def test_private_names_of_other_packages_are_found(source, found):
    assert [name for _, name in check_imports.private_uses(source, "nestgrad_lab")] == found


def _wheel(path, names, points="[nestgrad.backends]\nacme = acme\n"):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, points if name.endswith("entry_points.txt") else "")
    return path


@pytest.fixture
def acme(tmp_path):
    folder = tmp_path / "acme"
    (folder / "src" / "acme").mkdir(parents=True)
    (folder / "src" / "acme" / "__init__.py").touch()
    (folder / "src" / "acme" / "py.typed").touch()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "acme"\nversion = "1.0"\n[project.entry-points."nestgrad.backends"]\nacme = "acme"\n'
    )
    return folder


INFO = [
    f"acme-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE", "entry_points.txt")
]
RIGHT = ["acme/__init__.py", "acme/py.typed", *INFO]


def test_a_right_wheel_passes(acme, tmp_path):
    assert check_dists.problems(_wheel(tmp_path / "a.whl", RIGHT), acme) == []


@pytest.mark.parametrize(
    ("names", "points", "problem"),
    [
        ([*RIGHT, "tests/test_acme.py"], "[nestgrad.backends]\nacme = acme\n", "tests/test_acme.py does not belong"),
        (
            [name for name in RIGHT if "typed" not in name],
            "[nestgrad.backends]\nacme = acme\n",
            "acme/py.typed is missing",
        ),
        ([name for name in RIGHT if "LICENSE" not in name], "[nestgrad.backends]\nacme = acme\n", "LICENSE is missing"),
        (RIGHT, "[nestgrad.backends]\nacme = other\n", "entry points are"),
    ],
)
def test_a_wrong_wheel_is_found(acme, tmp_path, names, points, problem):
    assert problem in "; ".join(check_dists.problems(_wheel(tmp_path / "a.whl", names, points), acme))


def _report(dtype, statuses, *, supports=True):
    checks = [
        {"check": f"c{i}", "status": status, "requires": ["CG"], "examples": 100, "seconds": 0.1, "message": ""}
        for i, status in enumerate(statuses)
    ]
    return {
        "backend": "nestgrad_acme",
        "dtype": dtype,
        "versions": {},
        "supports": dict.fromkeys(nestgrad.SPECS, False) | {"CG": supports},
        "checks": checks,
    }


@pytest.mark.parametrize(
    ("reports", "cell"),
    [
        ([_report("float64", ["passed"]), _report("float32", ["passed", "skipped"])], "yes"),
        ([_report("float64", ["passed"]), _report("float32", ["passed", "failed"])], "1 of 3 checks fail"),
        ([_report("float64", ["xfailed", "passed"])], "1 of 2 checks fail"),
        ([_report("float64", ["skipped"])], "unchecked"),
        ([_report("float64", ["passed"], supports=False)], "missing"),
    ],
)
def test_a_cell_says_yes_only_when_every_check_passed_in_every_dtype(reports, cell):
    rows = support_table.table(reports).splitlines()
    assert rows[0] == "|  | acme |"
    assert f"| `CG` | {cell} |" in rows
    assert "| `Neumann` | missing |" in rows


def test_the_last_rows_count_the_checks_that_apply():
    rows = support_table.table(
        [_report("float64", ["passed"] * 3), _report("float32", ["passed", "failed", "skipped"])]
    )
    assert rows.splitlines()[-2:] == [
        "| checks passed, float64 | 3 of 3 |",
        "| checks passed, float32 | 1 of 2 (1 does not apply) |",
    ]


def test_names_that_are_not_built_are_missing():
    rows = support_table.table([_report("float64", ["passed"])]).splitlines()
    for name in nestgrad.NOT_BUILT:
        assert f"| `{name}` | missing |" in rows


def test_check_compares_and_does_not_write(tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{support_table.BEGIN}\n{support_table.END}\nb\n", encoding="utf-8")
    (tmp_path / "r.json").write_text(json.dumps(_report("float64", ["passed"])), encoding="utf-8")
    monkeypatch.setattr(support_table, "README", readme)
    monkeypatch.setattr(sys, "argv", ["support_table.py", "--check", str(tmp_path)])
    before = readme.read_text(encoding="utf-8")
    assert support_table.main() == 1
    assert readme.read_text(encoding="utf-8") == before
    assert "+| `CG` | yes |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["support_table.py", str(tmp_path)])
    assert support_table.main() == 0
    assert readme.read_text(encoding="utf-8").startswith("a\n")
    assert "| `CG` | yes |" in readme.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["support_table.py", "--check", str(tmp_path)])
    assert support_table.main() == 0


def test_our_own_sources_use_no_private_name_of_another_package():
    done = subprocess.run(
        [sys.executable, "tools/check_imports.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
