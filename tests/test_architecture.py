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

import verifiers
from tests.shared.paths import ROOT
from verifiers.sandbox.command import INSIDE

PACKAGES = ("verifiers", "actors", "learner", "cluster")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
ROOMS = [name for name, path in MODULES.items() if path.stem == "__init__" and "." in name]
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
            assert not node.args[0].value.startswith("."), f"line {node.lineno}: a relative import"
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


def test_imports_point_left():
    for position, package in enumerate(PACKAGES):
        to_the_right = {"tests", "benchmarks", *PACKAGES[position + 1 :]}
        ours = [name for name in MODULES if name.split(".")[0] == package]
        assert [name for name in ours if top_level(imports_of(name)) & to_the_right] == []


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


def points_left(name, imported):
    """Whether an import within a package is one of the same room, or of one to its left."""
    (room, position), (other, its_position) = place(name), place(imported)
    return other == room or its_position < position


def test_rooms_of_a_package_import_those_to_their_left():
    within = [
        (name, imported)
        for name in MODULES
        for imported in imports_of(name)
        if imported in MODULES and imported.startswith(f"{name.split('.')[0]}.")
    ]
    assert len(within) > 300
    assert [pair for pair in within if not points_left(*pair)] == []


def test_the_order_of_rooms_can_tell_left_from_right():
    assert points_left("cluster.run.controller", "cluster.fleet.slots")
    assert points_left("cluster.fleet.rollouts", "cluster.fleet.slots")
    assert not points_left("cluster.fleet.slots", "cluster.run.controller")
    assert not points_left("cluster.leasing.ledger", "cluster.run_directory.record")  # side by side


def test_no_modules_import_each_other_in_a_circle():
    left = {name: {module for module in imports_of(name) if module in MODULES} for name in MODULES}
    while free := {name for name, needed in left.items() if not needed}:
        left = {name: needed - free for name, needed in left.items() if name not in free}
    assert not left


def test_configs_and_types_import_nothing_but_contracts():
    for name in CONTRACTS:
        ours = {module for module in imports_of(name) if module in MODULES}
        assert ours - set(CONTRACTS) == set(), name
        assert not top_level(imports_of(name)) & {"ray", "vllm", "torch", "transformers"}, name


def test_only_shells_import_a_worker():
    """RolloutFacts, a plain record, is the one thing that metrics take from a worker."""
    importing = [name for name in MODULES if any(one.endswith(".worker") for one in imports_of(name))]
    assert importing
    shells = [name for name in importing if name.startswith("cluster.") or name.endswith(".worker")]
    assert [name for name in importing if name not in shells or name in CONTRACTS] == []


def test_ray_is_imported_by_workers_and_by_cluster_only():
    importing = {name for name in MODULES if "ray" in top_level(imports_of(name))}
    assert {name for name in importing if not name.startswith("cluster.")} == {
        "verifiers.worker",
        "actors.worker",
        "learner.worker",
        "learner.supervised.worker",
    }
    without = ("config", "terminal", "leasing", "run_directory", "view")
    assert [name for name in importing if name.startswith("cluster.") and name.split(".")[1] in without] == []


def test_what_exists_in_the_sandbox_imports_the_standard_library_and_its_own_room_only():
    for name in INSIDE:
        if name != "__init__":
            imported = imports_of(f"verifiers.sandbox.{name}")
            ours = {one for one in imported if one in MODULES}
            assert {one.rpartition(".")[0] for one in ours} <= {"verifiers.sandbox"}, name
            assert top_level(imported) - {"verifiers"} <= sys.stdlib_module_names, name


def test_every_folder_of_a_package_is_a_room_and_no_package_is_imported_as_a_whole():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path
    for name, path in MODULES.items():
        whole = re.findall(r"^\s*import (verifiers|actors|learner|cluster)\b", path.read_text(), re.MULTILINE)
        assert whole == [], name


def test_there_are_contracts_in_every_package():
    assert {name.split(".")[0] for name in CONTRACTS} == set(PACKAGES)


def test_only_workers_and_the_controller_are_remote():
    for name, path in MODULES.items():
        remote = [decorator for decorator in decorators(name) if decorator.startswith("ray.remote")]
        shell = name.endswith(".worker") or name == "cluster.run.controller"
        assert len(remote) == (1 if shell else 0), name
        if not shell:
            assert not re.search(r"\bray\.remote\(|from ray import .*\bremote\b", path.read_text()), name


def test_only_the_engine_and_its_receivers_of_weights_import_vllm():
    importing = {name for name in MODULES if "vllm" in top_level(imports_of(name))}
    receivers = {f"actors.weights.{name}" for name in ("receiver", "parallel", "adapter_receiver")}
    assert importing == {"actors.engine", *receivers}


def test_no_module_is_long():
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_packages_and_rooms_say_what_is_in_them_and_do_nothing():
    for room in (*PACKAGES, *ROOMS):
        tree = ast.parse(MODULES[room].read_text())
        assert len(tree.body) == 1 and len(ast.get_docstring(tree) or "") > 60, room


def test_no_module_is_named_for_nothing():
    nothing = {"utils", "util", "common", "helpers", "misc"}
    assert [name for name in MODULES if nothing & set(name.split("."))] == []


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


def test_a_controller_and_a_worker_that_has_no_engine_yet_are_up_without_torch():
    code = "import sys, actors.worker, cluster.run.controller; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_line_leaves_ray_unimported_until_its_environment_is_set():
    """Ray reads at import whether it may listen beyond the loopback interface."""
    modules = (
        "cluster.commands.cli, cluster.commands.train, cluster.jobs.status, cluster.jobs.steer, cluster.jobs.submit, cluster.jobs.ray_jobs, cluster.commands.plan, "
        "cluster.run.preflight"
    )
    program = f"import sys, {modules}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0
