"""The README's example and its figures."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_as_shown(lab, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102
    assert "finished runs/digits-001" in capsys.readouterr().out


def test_the_table_is_that_of_the_default_run(lab):
    output = lab.tune("--backend", "torch").output
    shown = re.search(r"validation loss +2\.31 +([\d.]+)", README)
    found = re.search(r"validation loss +2\.31 +([\d.]+)", output)
    assert found, output
    assert abs(float(found[1]) - float(shown[1])) < 0.03  # other processors round otherwise, and training amplifies it
