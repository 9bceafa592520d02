"""Documents that cannot drift: links lead somewhere, commands and targets exist, examples run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from srpo_core.settings.base import parse_settings
from srpo_core.settings.pipeline import PipelineSettings

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert missing == []


def test_every_srpo_command_named_in_a_document_exists() -> None:
    listing = subprocess.run([sys.executable, "-m", "flows.cli", "--help"], capture_output=True, text=True, check=True).stdout
    named = {name for path in DOCUMENTS for name in re.findall(r"\bsrpo ([a-z]+(?:-[a-z]+)*)", path.read_text(encoding="utf-8"))}
    assert {name for name in named if name not in listing} == set()


def test_every_make_target_named_in_a_document_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    as_command = re.compile(r"(?:^|`)make ([a-z]+(?:-[a-z]+)*)\b", re.MULTILINE)
    named = {name for path in DOCUMENTS for name in as_command.findall(path.read_text(encoding="utf-8"))}
    assert named <= targets


def test_the_configuration_shown_in_the_readme_is_valid() -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    settings = parse_settings(PipelineSettings, yaml.safe_load(block[1]), "README.md")
    assert [one.method for one in settings.method_settings()] == ["srpo", "dpo"]


def test_the_python_example_goes_from_data_to_a_win_rate() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "docs" / "examples" / "python_api.py")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300).stdout
    assert re.findall(r"revision (\d): win rate 0\.\d+ \[", output) == ["0", "1", "2"]
