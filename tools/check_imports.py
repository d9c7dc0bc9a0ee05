"""Private names stay at home: no package of ours imports or reads a name with a leading underscore from another.

It holds for the lab and the benchmarks as much as for the backends, and for frameworks as much as for our own packages,
but for the few names in ALLOWED.
Which package may import which is the business of import-linter (see pyproject.toml).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "torch._foreach_*": "one operation on a list of tensors, by which torch.optim itself steps",
    "torch._inductor": "the compiler of a traced graph, without the guards that torch.compile adds to every call",
    "torch._subclasses.fake_tensor": "tensors without values, and the errors by which they refuse to be read",
}
"""Private names that have no public counterpart, or all that match, each with what it is needed for."""
SOURCES = ("packages/*/src", "conformance/src", "conformance/example_backend/src", "benchmarks/benchmarks", "tools")


def private_uses(source: str, home: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every private name of another top-level package than home."""
    module = ast.parse(source)
    bound: dict[str, str] = {}
    for node in ast.walk(module):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for name, target in _imports(node):
            bound[name] = target
            if _is_private(target, home):
                yield node.lineno, target
    for node in ast.walk(module):
        if not isinstance(node, ast.Attribute) or not _hidden(node.attr):
            continue
        if (target := _dotted(node, bound)) and _is_private(target, home):
            yield node.lineno, target


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(local name, dotted name) of what an import statement binds."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.split(".")[0]
            yield (alias.asname or alias.name, alias.name)
            yield (alias.asname or first, alias.name if alias.asname else first)
    elif node.module and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, bound: dict[str, str]) -> str | None:
    """The dotted name that an expression reads from an imported module, or None."""
    if isinstance(node, ast.Name):
        return bound.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value, bound)):
        return f"{owner}.{node.attr}"
    return None


def _is_private(dotted: str, home: str) -> bool:
    first, *rest = dotted.split(".")
    allowed = any(fnmatchcase(dotted, name) or dotted.startswith(f"{name}.") for name in ALLOWED)
    return first not in {home, "__future__"} and not allowed and any(_hidden(part) for part in rest)


def _hidden(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def main() -> int:
    """Print one line a finding; the exit code says whether there was any."""
    files = findings = 0
    for pattern in SOURCES:
        for root in sorted(ROOT.glob(pattern)):
            for path in sorted(root.rglob("*.py")):
                files += 1
                for line, name in private_uses(path.read_text(encoding="utf-8"), path.relative_to(root).parts[0]):
                    findings += 1
                    print(f"{path.relative_to(ROOT)}:{line}: {name} is private to {name.split('.')[0]}")
    print(f"check_imports: {files} files, {findings} private names of other packages, limit 0")
    return 1 if findings or not files else 0


if __name__ == "__main__":
    sys.exit(main())
