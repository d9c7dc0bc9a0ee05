"""What importing the package brings in beside torch itself."""

import json
import subprocess
import sys

HEAVY = ("torch._dynamo", "torch._inductor", "torch._export", "torch.onnx", "sympy", "scipy", "pandas", "jax")


def test_compilers_and_the_like_are_imported_by_those_who_use_them():
    code = (
        "import json, sys; import torch; before = set(sys.modules); import nestgrad_torch; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    added = json.loads(told.splitlines()[-1])
    assert [name for name in added if name.startswith(HEAVY)] == []
    assert "nestgrad_torch.distributed" in added
