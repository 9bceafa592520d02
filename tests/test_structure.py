"""The house stands as planned: imports point one way, modules say what they are for, settings what they mean.

Imports are read from the source, also those inside functions, so that nothing hides behind a lazy import.
"""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from srpo_core import settings
from srpo_core.settings.base import Settings

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "tasks", "srpo_core", "storage")
# What a room may import of the others, and what must not be known in it.
MAY_IMPORT = {"flows": {"flows", "tasks", "srpo_core", "storage"}, "tasks": {"tasks", "srpo_core", "storage"}}
MAY_IMPORT |= {"srpo_core": {"srpo_core"}, "storage": {"storage"}}
MUST_NOT_KNOW = {"srpo_core": {"prefect", "duckdb"}, "storage": {"torch", "transformers", "prefect", "scipy"}}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
FLOW_MODULES = [name for name in MODULES if name.split(".")[0] == "flows"]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Each imported module of a file and the number of dots before it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


@each_file
def test_imports_point_from_flows_to_tasks_to_the_method_and_the_storage(path):
    room = path.relative_to(ROOT).parts[0]
    heads = {name.split(".")[0] for name, _ in imports(path)}
    assert heads & {*ROOMS, "tests", "benchmarks"} <= MAY_IMPORT[room]
    assert not heads & MUST_NOT_KNOW.get(room, set())
    if path.parent.name == "scoring":  # numbers from verdicts; it knows neither models nor how a judge is asked
        assert not heads & {"torch", "transformers"}
        assert not any(name.startswith("srpo_core.judging") for name, _ in imports(path))


@each_file
def test_an_import_says_the_whole_name(path):
    assert [name for name, dots in imports(path) if dots] == []


@each_file
def test_a_module_opens_by_saying_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_can_be_imported(name):
    importlib.import_module(name)


def test_every_package_is_found_and_every_folder_with_modules_is_a_package():
    found = {module.name for room in ROOMS for module in pkgutil.walk_packages([str(ROOT / room)], prefix=f"{room}.")}
    assert found | set(ROOMS) == set(MODULES)


def test_flows_and_tasks_load_without_torch_and_the_command_line_without_prefect():
    """In a fresh process each: the flows, which do not need torch, and the order of stages, which does not need Prefect."""
    commands = [name for name in FLOW_MODULES if "commands" in name]
    cases = ((FLOW_MODULES, "torch transformers"), (["flows.pipeline", "flows.cli", *commands], "torch transformers prefect"))
    for modules, absent in cases:
        loading = f"import sys, {', '.join(modules)}; print(*(set('{absent}'.split()) & set(sys.modules)))"
        loaded = subprocess.run([sys.executable, "-c", loading], cwd=ROOT, capture_output=True, text=True)
        assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr


def test_a_form_loads_nothing_that_only_its_stages_need():
    """What `prefect deploy`, the server's checks and a worker import of each flow costs little more than Prefect itself."""
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    forms = sorted({one["entrypoint"].split(".py:")[0].replace("/", ".") for one in deployments})
    assert "flows.train" in forms and "flows.ask" in forms
    slow = "torch transformers numpy pyarrow duckdb scipy psutil datasets openai httpx2 tasks"
    loading = f"import sys, prefect; before = set(sys.modules); import {', '.join(forms)}"
    shown = f"print(*sorted(set('{slow}'.split()) & set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", f"{loading}; {shown}"], cwd=ROOT, capture_output=True, text=True)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr


def settings_classes() -> list[type[Settings]]:
    modules = [importlib.import_module(one.name) for one in pkgutil.iter_modules(settings.__path__, "srpo_core.settings.")]
    classes = {one for module in modules for one in vars(module).values() if inspect.isclass(one) and issubclass(one, Settings)}
    return sorted(classes, key=lambda one: one.__name__)


def settings_fields() -> list[tuple[str, str, str]]:
    """Class, field and description of every setting."""
    return [
        (one.__name__, name, field.description or "") for one in settings_classes() for name, field in one.model_fields.items()
    ]


def test_every_setting_says_what_it_means():
    assert [f"{owner}.{name}" for owner, name, description in settings_fields() if not description] == []


def test_every_settings_class_says_what_it_is_for():
    assert [one.__name__ for one in settings_classes() if not one.__doc__] == []
