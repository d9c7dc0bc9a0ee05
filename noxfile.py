# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]"]
# ///
"""Every task of the project: `nox --list` names them, `nox -s NAME` runs one in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

import nox

ROOT = Path(__file__).parent.resolve()
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
EXAMPLE = ROOT / "conformance" / "example_backend"
REPORTS = ROOT / ".nox" / "conformance"
FOLDERS = {
    "nestgrad": "packages/nestgrad",
    "nestgrad-reference": "packages/nestgrad-reference",
    "nestgrad-torch": "packages/nestgrad-torch",
    "nestgrad-jax": "packages/nestgrad-jax",
    "nestgrad-lab": "packages/nestgrad-lab",
    "nestgrad-integrations": "packages/nestgrad-integrations",
    "nestgrad-conformance": "conformance",
}
EXTRAS = {
    "nestgrad-integrations": "[torch,lightning,transformers,flax,equinox]",
    "nestgrad-lab": "[search,ray]",
}
"""What the tests of a package need of its own extras."""
BACKENDS = ("reference", "torch", "jax")
ASV = ("asv>=0.6.6", "virtualenv")
TEST_TOOLS = ("pytest>=9", "pytest-xdist>=3.8")

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|venv"  # falls back to pip where uv is absent
nox.options.sessions = ["lint", "types", "imports", "tests"]
if links := os.environ.get("PIP_FIND_LINKS"):  # uv does not read pip's settings
    os.environ.setdefault("UV_FIND_LINKS", ",".join(links.split()))  # pip: spaces; uv: commas


@nox.session
def demo(session: nox.Session) -> None:
    """Install the lab with a backend and tune a model in one training run: `nox -s demo -- --backend jax`."""
    backend = "jax" if "jax" in session.posargs else "torch"
    _install(session, "nestgrad-lab", f"nestgrad-{backend}")
    session.run("nestgrad", "tune", *session.posargs, env=_environment())


@nox.session
def tests(session: nox.Session) -> None:
    """Install everything and run every test: `nox -s tests -- packages/nestgrad-torch -k neumann`."""
    _install(session, *FOLDERS, tools=TEST_TOOLS, extras=True)
    arguments = session.posargs or ["-n", "auto", "--maxprocesses=4", "--dist=worksteal"]
    session.run("pytest", *arguments, env=_environment())


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting; `nox -s lint -- --fix` mends what it can."""
    session.install("ruff~=0.17.5")
    session.run("ruff", "check", *session.posargs, ".")
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: strict for the core and the conformance suite, standard elsewhere."""
    _install(session, *FOLDERS, tools=("pyright[nodejs]==1.1.414", "nox", "asv"), extras=True)
    session.run("pyright", *session.posargs, env={"PYRIGHT_PYTHON_CACHE_DIR": str(ROOT / ".nox" / "pyright")})


@nox.session
def imports(session: nox.Session) -> None:
    """Check which package may import what, and that private names stay at home."""
    session.install("import-linter~=2.16")
    session.install("--no-deps", *_editable(FOLDERS))
    session.run("lint-imports", "--no-cache")
    session.run("python", "tools/check_imports.py")


@nox.session
@nox.parametrize("backend", BACKENDS)
def conformance(session: nox.Session, backend: str) -> None:
    """Hold one backend to the conformance suite, 100 examples a check, and write its report for the support table."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    _run_conformance(session, backend, f"--nestgrad-report={REPORTS / f'{backend}.json'}")


@nox.session(name="conformance-long")
@nox.parametrize("backend", BACKENDS)
def conformance_long(session: nox.Session, backend: str) -> None:
    """The same with 2,000 examples a check, drawn anew on every run; takes hours."""
    _run_conformance(session, backend, "--nestgrad-examples=2000", "--nestgrad-random")


def _run_conformance(session: nox.Session, backend: str, *options: str) -> None:
    _install(session, f"nestgrad-{backend}", "nestgrad-conformance", tools=TEST_TOOLS)
    session.run(
        "pytest",
        "--pyargs",
        "nestgrad_conformance",
        f"--nestgrad-harness=nestgrad_{backend}.testing:harness",
        *options,
        *(session.posargs or ["-n", "auto", "--maxprocesses=4", "-q"]),
        env=_environment(),
    )


@nox.session
def support_table(session: nox.Session) -> None:
    """Write the README's support table from the reports of `nox -s conformance`; `-- --check` only compares."""
    _install(session, "nestgrad")
    session.run("python", "tools/support_table.py", *session.posargs, str(REPORTS))


@nox.session
def thirdparty(session: nox.Session) -> None:
    """Build the example backend and what it needs, install the wheels and run its tests from outside the repository."""
    with tempfile.TemporaryDirectory() as outside:
        folders = [ROOT / FOLDERS[name] for name in ("nestgrad", "nestgrad-reference", "nestgrad-conformance")]
        wheels = _wheels(session, Path(outside) / "wheels", *folders, EXAMPLE)
        session.install("-c", str(CONSTRAINTS), *map(str, wheels), *TEST_TOOLS)
        copied = Path(outside) / "tests"
        shutil.copytree(EXAMPLE / "tests", copied)
        with session.chdir(outside):
            session.run("pytest", "-p", "no:cacheprovider", "--rootdir", outside, str(copied), *session.posargs)


@nox.session
def dists(session: nox.Session) -> None:
    """Build every wheel and check that it holds its module, py.typed, entry points and licence, and nothing else."""
    with tempfile.TemporaryDirectory() as outside:
        wheels = _wheels(session, Path(outside), *(ROOT / folder for folder in FOLDERS.values()))
        session.run("python", "tools/check_dists.py", *map(str, wheels))


@nox.session
def counts(session: nox.Session) -> None:
    """Compare exact counts of work with those that are checked in; `nox -s counts -- --write` records new ones."""
    _benchmarked(session)
    session.run("python", "-m", "benchmarks.counts", *session.posargs, env=_environment())


@nox.session
def ratios(session: nox.Session) -> None:
    """Print what each operation costs, in units of a plain training step, beside the best hand-written code."""
    _benchmarked(session)
    session.run("python", "-m", "benchmarks.ratios", *session.posargs, env=_environment())


@nox.session(name="bench-smoke")
def bench_smoke(session: nox.Session) -> None:
    """Run every benchmark once, in this environment: that they run, not how fast."""
    _benchmarked(session, *ASV)
    arguments = ["--python=same", "--quick", "--dry-run", "--show-stderr", *session.posargs]
    _asv(session, "run", *arguments, NESTGRAD_BENCH_ROUNDS="3")


@nox.session
def bench(session: nox.Session) -> None:
    """Run every benchmark on every problem for this commit, built afresh, and keep the results; takes hours."""
    session.install(*ASV)
    full = {"NESTGRAD_BENCH_ROUNDS": "21", "NESTGRAD_BENCH_PROBLEMS": "P1,P2,P3,P4", "NESTGRAD_BENCH_COMPILED": "1"}
    _asv(session, "run", "--show-stderr", *(session.posargs or ["HEAD^!"]), **full)


@nox.session(name="bench-continuous")
def bench_continuous(session: nox.Session) -> None:
    """This commit against main, each built afresh; fails when one is slower by a tenth."""
    session.install(*ASV)
    _asv(session, "continuous", "--factor=1.1", "--split", *(session.posargs or ["main", "HEAD"]))


@nox.session(name="bench-publish")
def bench_publish(session: nox.Session) -> None:
    """Draw the results kept as pages, in benchmarks/.asv/html."""
    session.install(*ASV)
    _asv(session, "publish", *session.posargs)


def _benchmarked(session: nox.Session, *tools: str) -> None:
    _install(session, "nestgrad-torch", "nestgrad-jax", tools=("optax", *tools))
    session.chdir("benchmarks")


def _asv(session: nox.Session, verb: str, *arguments: str, **environment: str) -> None:
    session.chdir(ROOT / "benchmarks")
    session.run("asv", "machine", "--yes", silent=True)
    session.run("asv", verb, *arguments, env=_environment() | environment)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages of packages/nestgrad/docs; their examples are run by `nox -s tests`."""
    session.install("sphinx>=9", "myst-parser", "furo")
    out = ROOT / ".nox" / "docs-html"
    session.run("sphinx-build", "-W", "-b", "html", "packages/nestgrad/docs", str(out), *session.posargs)
    session.log(f"open {out / 'index.html'}")


def _install(session: nox.Session, *names: str, tools: tuple[str, ...] = (), extras: bool = False) -> None:
    """Install these packages of ours editable, with those they need of ours, and the tools, under the constraints."""
    session.install("-c", str(CONSTRAINTS), *_editable(_with_needs(names), extras=extras), *tools)


def _editable(names: Iterable[str], *, extras: bool = False) -> list[str]:
    wanted = EXTRAS if extras else {}
    return [argument for name in names for argument in ("-e", str(ROOT / FOLDERS[name]) + wanted.get(name, ""))]


def _with_needs(names: Iterable[str]) -> list[str]:
    """The names and, before each, the packages of ours that it depends on: none of them need be published."""
    ordered: dict[str, None] = {}
    for name in names:
        project = tomllib.loads((ROOT / FOLDERS[name] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        needs = [re.split(r"[^\w-]", need, maxsplit=1)[0] for need in project["dependencies"]]
        ours = tuple(need for need in needs if need in FOLDERS)
        ordered |= dict.fromkeys([*_with_needs(ours), name])
    return list(ordered)


def _wheels(session: nox.Session, out: Path, *folders: Path) -> list[Path]:
    session.install("build", "hatchling")
    for folder in folders:
        session.run(
            "python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(folder), silent=True
        )
    return sorted(out.glob("*.whl"))


def _environment() -> dict[str, str]:
    """One thread a process, compiled programs kept between runs, and the larger data sets where they are at hand."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".nox" / "jax-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    data = ROOT.parent / "shared" / "data"
    if data.is_dir():
        settings.setdefault("NESTGRAD_DATA", os.environ.get("NESTGRAD_DATA", str(data)))
    return settings


if __name__ == "__main__":
    nox.main()
