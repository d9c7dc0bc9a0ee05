"""Every Python example in the README and in the pages is run, page by page, and what it says it prints is compared.

The blocks of a page share one namespace, in order. A block of kind `text` right after a Python block is its output;
numbers in it may differ by a tenth, since they come from training.
"""

import contextlib
import importlib.util
import io
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = Path(__file__).parents[1] / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n\n^```text\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)


def _examples(page):
    return list(BLOCK.finditer(page.read_text(encoding="utf-8")))


WITH_EXAMPLES = [page for page in PAGES if _examples(page)]


def _run(page, code, line, namespace):
    """Run one block, its lines numbered as in the page, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)  # noqa: S102  (the project's own pages)
    return printed.getvalue()


def _same(printed, expected):
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, expected)]
    return NUMBER.sub("#", printed) == NUMBER.sub("#", expected) and numbers[0] == pytest.approx(numbers[1], rel=0.1)


@pytest.fixture(autouse=True)
def _jax_has_its_own_precision_back():
    """A page may turn 64-bit numbers on; the tests after it, in the same process, are written for their absence."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_x64", False)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run_and_print_what_they_say(page):
    examples = _examples(page)
    for name in sorted({name for example in examples for name in IMPORT.findall(example["code"])}):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    namespace = {"__name__": "__example__"}
    for example in examples:
        line = example.string[: example.start("code")].count("\n")
        printed = _run(page, example["code"], line, namespace)
        if example["output"] is not None:
            assert _same(printed, example["output"]), f"line {line}: printed\n{printed}"


def test_the_pages_have_the_examples_that_this_file_is_for():
    assert {page.name for page in WITH_EXAMPLES} >= {
        "README.md",
        "choose.md",
        "one-pass.md",
        "extend.md",
        "how-it-works.md",
    }
    assert _examples(ROOT / "README.md")[0]["output"]


def test_the_readmes_untuned_run_ends_where_it_says():
    torch = pytest.importorskip("torch")
    pytest.importorskip("nestgrad_torch")
    page = ROOT / "README.md"
    claimed = float(re.search(r"ends at a validation loss of (\d\.\d+)", page.read_text(encoding="utf-8"))[1])
    namespace = {}
    _run(page, _examples(page)[0]["code"].split("inner = ")[0], 0, namespace)
    model, loss = namespace["model"], namespace["loss"]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.5, weight_decay=1e-4)
    for _ in range(2000):
        optimizer.zero_grad()
        loss(model, None, namespace["train"]).backward()
        optimizer.step()
    assert loss(model, None, namespace["valid"]).item() == pytest.approx(claimed, rel=0.02)


def test_a_wrong_output_is_noticed():
    assert _same("loss 0.059\n", "loss 0.06\n")
    assert not _same("loss 0.059\n", "loss 0.09\n")
    assert not _same("loss 0.059\n", "cost 0.059\n")
    assert not _same("loss 0.059\n", "loss 0.059 1\n")


def test_relative_links_lead_somewhere():
    link = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
    links = [(page, target) for page in PAGES for target in link.findall(page.read_text(encoding="utf-8"))]
    assert len(links) >= 5
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []
