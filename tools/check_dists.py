"""Look into built wheels: the module, py.typed, the declared entry points, the licence, and nothing else."""

from __future__ import annotations

import configparser
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
METADATA = {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}


def problems(wheel: Path, folder: Path) -> list[str]:
    """What is wrong with a wheel built from this folder; empty when nothing is."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module = project["name"].replace("-", "_")
    info = f"{module}-{project['version']}.dist-info"
    declared = _entry_points(project)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = f"{info}/entry_points.txt"
        shipped = _parsed(archive.read(points).decode()) if points in names else {}
    source = folder / "src"
    expected = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    expected |= {f"{info}/{name}" for name in METADATA} | ({points} if declared else set())
    found = [f"{name} is missing" for name in sorted(expected - names)]
    found += [f"{name} does not belong" for name in sorted(names - expected)]
    found += [f"{name} is missing" for name in (f"{module}/__init__.py", f"{module}/py.typed") if name not in names]
    if shipped != declared:
        found.append(f"entry points are {shipped}, declared {declared}")
    return found


def _entry_points(project: dict[str, Any]) -> dict[str, dict[str, str]]:
    scripts = {"console_scripts": project["scripts"]} if "scripts" in project else {}
    return scripts | project.get("entry-points", {})


def _parsed(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def main(wheels: list[str]) -> int:
    """Check every wheel against the folder that its distribution is built from."""
    folders = {
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"].replace("-", "_"): path.parent
        for path in [*ROOT.glob("packages/*/pyproject.toml"), ROOT / "conformance" / "pyproject.toml"]
    }
    wrong = 0
    for wheel in map(Path, wheels):
        found = problems(wheel, folders[wheel.name.split("-")[0]])
        wrong += bool(found)
        print(f"{wheel.name}: {'; '.join(found) or 'right'}")
    unbuilt = folders.keys() - {Path(wheel).name.split("-")[0] for wheel in wheels}
    print(
        f"check_dists: {len(wheels)} wheels, {wrong} wrong, limit 0; not built: {', '.join(sorted(unbuilt)) or 'none'}"
    )
    return 1 if wrong or unbuilt or not wheels else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
