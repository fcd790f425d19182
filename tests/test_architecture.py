"""Imports point left, between packages and between the rooms of one, and the boundaries are where they should be."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import verifiers
from tests.shared.paths import ROOT

PACKAGES = ("verifiers", "actors", "learner", "cluster")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
ROOMS = [name for name, path in MODULES.items() if path.stem == "__init__" and "." in name]
EVERY_MODULE = pytest.mark.parametrize("name", MODULES)
CONTRACTS = [name for name in MODULES if re.search(r"\.(.*_)?(config|types)$|^cluster\.config\.", name)]
MAX_LINES = 400


def imports(source):
    """Absolute names of all modules that this source may import, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(node.args[0].value)
    return found


@cache
def imports_of(name):
    return imports(MODULES[name].read_text())


def top_level(names):
    return {name.split(".")[0] for name in names}


def decorators(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                yield ast.unparse(decorator)


def test_the_walk_sees_lazy_imports_and_all_modules():
    source = (
        "import a.b\nfrom c import d\ndef f():\n    from e.f import g\n"
        "    importlib.import_module('h.i')\nclass K:\n    import l as m\n"
    )
    assert imports(source) == {"a.b", "c", "c.d", "e.f", "e.f.g", "h.i", "l"}
    assert {"verifiers.types", "actors.engine", "learner.step.loss", "cluster.run.controller"} <= set(MODULES)
    assert len(MODULES) == sum(len(list((ROOT / package).rglob("*.py"))) for package in PACKAGES)


@EVERY_MODULE
def test_imports_point_left(name):
    position = PACKAGES.index(name.split(".")[0])
    to_the_right = {"tests", *PACKAGES[position + 1 :]}
    assert not top_level(imports_of(name)) & to_the_right


def order_of_rooms():
    """Package -> its rooms and single modules as CONTRIBUTING.md orders them: a set for each column between arrows."""
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {
        package: [set(re.findall(r"`(\w+)`", column)) for column in columns.split("←")]
        for package, columns in table
        if package in PACKAGES
    }


ORDER = order_of_rooms()


def place(name):
    """The room or single module that a module is in, and where that stands in the order of its package."""
    package, room = name.split(".")[:2]
    [position] = [index for index, column in enumerate(ORDER[package]) if room in column]
    return room, position


def test_the_table_of_rooms_names_each_once():
    here = {package: set() for package in PACKAGES}
    for name in MODULES:
        package, *rest = name.split(".")
        here[package].update(rest[:1])
    for package, rooms in here.items():
        assert sorted(room for column in ORDER[package] for room in column) == sorted(rooms)


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_rooms_of_a_package_import_those_to_their_left(name):
    room, position = place(name)
    for module in imports_of(name):
        if module in MODULES and module.startswith(f"{name.split('.')[0]}."):
            other, its_position = place(module)
            assert other == room or its_position < position, f"{name} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
    left = {name: {module for module in imports_of(name) if module in MODULES} for name in MODULES}
    while free := {name for name, needed in left.items() if not needed}:
        left = {name: needed - free for name, needed in left.items() if name not in free}
    assert not left


@pytest.mark.parametrize("name", CONTRACTS)
def test_configs_and_types_import_nothing_but_contracts(name):
    ours = {module for module in imports_of(name) if module in MODULES}
    assert ours <= set(CONTRACTS)
    assert not top_level(imports_of(name)) & {"ray", "vllm", "torch", "transformers"}


@EVERY_MODULE
def test_only_shells_import_a_worker(name):
    """RolloutFacts, a plain record, is the one thing that metrics take from a worker."""
    workers = {module for module in imports_of(name) if module.endswith(".worker")}
    if workers:
        assert name.startswith("cluster.") and name not in CONTRACTS


def test_there_are_contracts_in_every_package():
    assert {name.split(".")[0] for name in CONTRACTS} == set(PACKAGES)


@EVERY_MODULE
def test_only_workers_and_the_controller_are_remote(name):
    remote = [decorator for decorator in decorators(name) if decorator.startswith("ray.remote")]
    shell = name.endswith(".worker") or name == "cluster.run.controller"
    assert len(remote) == (1 if shell else 0)
    if not shell:
        assert not re.search(r"\bray\.remote\(|from ray import .*\bremote\b", MODULES[name].read_text())


@EVERY_MODULE
def test_only_the_engine_and_its_receiver_of_weights_import_vllm(name):
    assert ("vllm" in top_level(imports_of(name))) == (name in ("actors.engine", "actors.weights.receiver"))


@EVERY_MODULE
def test_no_module_is_long(name):
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_does_nothing(package):
    assert (ROOT / package / "__init__.py").read_text() == ""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_is_in_it_and_does_nothing(room):
    tree = ast.parse(MODULES[room].read_text())
    assert len(tree.body) == 1 and len(ast.get_docstring(tree) or "") > 60


@EVERY_MODULE
def test_no_module_is_named_for_nothing(name):
    assert not {"utils", "util", "common", "helpers", "misc"} & set(name.split("."))


def test_verifiers_is_ours_and_not_the_published_package_of_that_name():
    assert Path(verifiers.__file__) == ROOT / "verifiers" / "__init__.py"
    elsewhere = subprocess.run(
        [sys.executable, "-c", "import verifiers; print(verifiers.__file__)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(elsewhere.stdout.strip()) == ROOT / "verifiers" / "__init__.py"


def test_nothing_named_verifiers_is_installed_or_depended_on():
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert "verifiers" not in installed and "pytest" in installed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
        assert "verifiers" not in {re.split(r"[^\w.-]", line)[0].lower() for line in requirements}
    for lock in ROOT.glob("requirements*.lock"):
        assert not re.search(r"^verifiers\b", lock.read_text(), re.MULTILINE)


def test_the_command_line_leaves_ray_unimported_until_its_environment_is_set():
    """Ray reads at import whether it may listen beyond the loopback interface."""
    modules = (
        "cluster.commands.cli, cluster.commands.train, cluster.jobs.status, cluster.jobs.steer, cluster.jobs.submit, cluster.jobs.ray_jobs, cluster.commands.plan, "
        "cluster.run.preflight"
    )
    program = f"import sys, {modules}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0
