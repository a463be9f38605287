"""The example of docs/engines.md works, and its tables are complete."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from jobfs.engines.base import Engine
from jobfs.testing import Feature

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = (REPOSITORY / "docs/engines.md").read_text()
CHECK = "a_job_ends_with_its_exit_code"


def test_the_example_is_a_test_that_passes(tmp_path: Path) -> None:
    """Whoever copies it into a file has the local engine checked."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    (tmp_path / "test_example.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHECK, "test_example.py"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


def test_every_method_is_in_the_table() -> None:
    """What an engine owes is said of each method of the protocol."""
    methods = {name for name, _ in inspect.getmembers(Engine, inspect.isfunction) if not name.startswith("_")}
    assert set() == methods - set(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE))


def test_every_feature_is_in_the_table() -> None:
    """What an engine may lack is said of each feature."""
    assert {feature.name for feature in Feature} <= set(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE))
