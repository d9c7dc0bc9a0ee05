"""What `import nestgrad` brings, what it does not bring, and what it says of names that it has not built."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import nestgrad
from nestgrad import NOT_BUILT, SPECS, NestgradError, NotBuilt

FRAMEWORKS = ("numpy", "scipy", "autograd", "torch", "jax", "optax")


@pytest.mark.parametrize("name", NOT_BUILT)
def test_a_name_that_is_not_built_says_so_and_what_to_use(name):
    with pytest.raises(NotBuilt) as caught:
        getattr(nestgrad, name)
    assert (
        str(caught.value) == f"{name} is not built in nestgrad {nestgrad.__version__}. Remedy: use {NOT_BUILT[name]}."
    )
    assert isinstance(caught.value, NestgradError)
    assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize("name", NOT_BUILT)
def test_a_name_that_is_not_built_is_absent_to_hasattr(name):
    assert not hasattr(nestgrad, name)


def test_a_name_is_either_built_or_not():
    assert not SPECS.keys() & NOT_BUILT.keys()
    assert all(getattr(nestgrad, name) is spec for name, spec in SPECS.items())


def test_any_other_name_is_a_plain_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Neuman'") as caught:
        nestgrad.Neuman  # noqa: B018
    assert not isinstance(caught.value, NestgradError)


def test_importing_the_core_imports_no_framework():
    program = f"import nestgrad, sys; print([name for name in {FRAMEWORKS} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_imports_the_standard_library_only():
    root = Path(nestgrad.__file__).parent
    imported = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert imported - sys.stdlib_module_names == {"nestgrad"}


def test_the_version_is_the_distributions():
    assert nestgrad.__version__ == version("nestgrad")


def test_every_public_spec_and_error_has_a_docstring():
    public = [value for name, value in vars(nestgrad).items() if isinstance(value, type) and not name.startswith("_")]
    assert len(public) > 30
    assert [kind.__name__ for kind in public if not (kind.__doc__ or "").strip()] == []
