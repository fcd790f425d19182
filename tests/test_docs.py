"""What the documents say of links, commands, settings, files and names is so.

A checker takes a document and returns its faults, a line each. Every checker runs on every document, and once on a
sample of its own that is wrong.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import get_args, get_origin

import click
import pytest

from cluster.commands.cli import cli
from cluster.config.parse import is_override, section_of
from cluster.config.schema import RunConfig
from learner.verifier.config import VerifierTrainingConfig
from tests.shared.markdown import FOLDERS, Document, documents, read
from tests.shared.paths import ROOT

DOCUMENTS = documents()
PACKAGES = ("verifiers", "actors", "learner", "cluster", "benchmarks", "tests")
SECTIONS = [name for name, field in RunConfig.model_fields.items() if section_of(field.annotation)]
FILE_SUFFIXES = {"json", "jsonl", "parquet", "toml", "log", "md", "py"}
MAX_README_LINES = 180
MAX_LINE_LENGTH = 120
MAX_WAY_LINES = 15


# Links


def wrong_links(document):
    """Relative links and pictures whose file, directory or heading is not there."""
    for link in document.links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.path.parent / name).resolve() if name else document.path
        if not (target == document.path or target.exists()):
            yield f"{document}: {link}: no such file"
        elif anchor and anchor not in (document if target == document.path else read(target)).anchors:
            yield f"{document}: {link}: no such heading"


# Commands


def shell_lines(document):
    """Commands of fenced blocks without a language (`\\` continues a line, `#` begins a comment)."""
    for fence in document.fences:
        if fence.language in ("", "bash", "sh"):
            for line in fence.text.replace("\\\n", " ").splitlines():
                yield re.sub(r"(^|\s)#.*", "", line).strip()


def bonfire_commands(document):
    """(what follows `bonfire`, whether it stands in a fenced block) for each command line.

    A command begins its line, or follows `--` (of kubectl or ray); `.venv/bin/` before it does not matter. The word
    of another case is no command: `bonfire: ...` is what the command prints.
    """
    for line in shell_lines(document):
        if found := re.search(r"(?:^|\s-- )(?:\.venv/bin/)?bonfire( .*|$)", line):
            yield found[1].strip(), True
    for code in document.code:
        if found := re.match(r"(?:\.venv/bin/)?bonfire( .*|$)", code):
            yield found[1].strip(), False


def without_placeholders(text):
    """The arguments of a command as they could be typed.

    Documents write what the reader fills in with CAPITALS, what may be left out in [brackets], what may be repeated
    with `...`, and any setting as key=value. The first become "1", which is also a number; brackets, dots and
    key=value go.
    """
    words = shlex.split(text.replace("[key=value ...]", "").replace("[KEY=VALUE ...]", ""))
    words = [word if "=" in word else word.strip("[]") for word in words]
    return [
        "1" if re.fullmatch(r"[A-Z][A-Z_]*", word) else word
        for word in words
        if word not in ("...", "key=value")
    ]


def wrong_commands(document):
    """Command lines that `bonfire` would refuse: subcommand, options, arguments, settings, the config's file.

    Whole lines, in fenced blocks, must have every argument; inline code may name a command alone.
    """
    for text, is_whole in bonfire_commands(document):
        for fault in faults_of_command(without_placeholders(text), is_whole):
            yield f"{document}: bonfire {text}: {fault}"


def faults_of_command(arguments, is_whole):
    if not arguments or arguments[0].startswith("-"):
        command, rest = cli, arguments
    else:
        command, rest = cli.commands.get(arguments[0]), arguments[1:]
        if command is None:
            return [f"{arguments[0]} is no subcommand"]
    try:
        given = command.make_context("bonfire", list(rest), resilient_parsing=False).params
    except click.exceptions.Exit:  # --help and --version
        return []
    except click.MissingParameter as error:
        return [error.format_message()] if is_whole else []
    except click.exceptions.NoArgsIsHelpError:
        return []
    except click.UsageError as error:
        return [error.format_message()]
    faults = []
    if command.name == "train-verifier":
        keys = [setting.partition("=")[0] for setting in given["settings"]]
        return [f"{key} is no setting" for key in keys if key not in VerifierTrainingConfig.model_fields]
    settings = [*given.get("overrides", ()), *given.get("settings", ())] if "config" in given else []
    settings += [argument for argument in given.get("models", ()) if is_override(argument)]
    config = given.get("config")
    if config is not None and "=" in str(config):
        settings.append(str(config))
    elif (
        config is not None
        and not config.is_absolute()
        and config.parent != Path()
        and not (ROOT / config).is_file()
    ):
        faults.append(f"{config} does not exist")
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals or not is_setting(key.split(".")):
            faults.append(f"{key} is no setting")
    return faults


@cache
def make_targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def wrong_targets(document):
    """`make TARGET` without a rule in the Makefile."""
    for line in (*shell_lines(document), *document.code):
        for target in re.findall(r"(?:^|&& |time )make ([a-z][\w-]*)", line):
            if target not in make_targets():
                yield f"{document}: make {target}: no such target"


def wrong_modules_to_run(document):
    """`python -m benchmarks.x` without such a script."""
    for line in (*shell_lines(document), *document.code):
        for name in re.findall(r"python3? -m (benchmarks[\w.]*)", line):
            place = ROOT / name.replace(".", "/")
            if not (place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()):
                yield f"{document}: python -m {name}: no such module"


# Settings


def holds_free_table(annotation):
    return get_origin(annotation) is dict or any(map(holds_free_table, get_args(annotation)))


def is_setting(parts, section=RunConfig):
    """Whether a dotted path is a setting or a section. What a free table holds (verifier.options) is the user's."""
    for part in parts:
        if section is None or part not in section.model_fields:
            return False
        annotation = section.model_fields[part].annotation
        if holds_free_table(annotation):
            return True
        section = section_of(annotation)
    return True


def dotted_paths(table, before=()):
    for key, value in table.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from dotted_paths(value, (*before, key))


def wrong_toml(document):
    """TOML blocks that do not parse, or set what is no setting. A part of a config will do."""
    for fence in document.fences:
        if fence.language == "toml":
            try:
                table = tomllib.loads(fence.text)
            except tomllib.TOMLDecodeError as error:
                yield f"{document}: {error} in {fence.text[:60]!r}"
                continue
            for path in dotted_paths(table):
                if not is_setting(path):
                    yield f"{document}: {'.'.join(path)} is no setting"


def wrong_names(document):
    """Dotted names in inline code that begin with a section or a package of ours, and are neither setting nor name.

    `learner.ranks` is a setting, `learner.types.STALENESS_WARNING` a name in a module; `learner.json` is a file.
    """
    first = "|".join({*SECTIONS, *PACKAGES})
    for code in document.code:
        for name in re.findall(rf"(?<![\w./:\"'@-])((?:{first})(?:\.\w+)+)(?![\w/])", code):
            parts = name.split(".")
            if parts[-1] not in FILE_SUFFIXES and not is_setting(parts) and not is_name(parts):
                yield f"{document}: {name} is neither a setting nor a name in the code"


# Code


@cache
def names_in(path):
    """Functions, classes, their members and variables of a source file, as `name` and `Class.name`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        members = [("", node)]
        if isinstance(node, ast.ClassDef):
            members += [(f"{node.name}.", member) for member in node.body]
        for before, one in members:
            if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(before + one.name)
            elif isinstance(one, ast.Assign | ast.AnnAssign):
                targets = one.targets if isinstance(one, ast.Assign) else [one.target]
                found |= {before + target.id for target in targets if isinstance(target, ast.Name)}
    return found


def is_name(parts):
    """Whether dotted parts are a package, a module, or a name in a module."""
    for count in range(len(parts), 0, -1):
        place, rest = ROOT.joinpath(*parts[:count]), parts[count:]
        if not rest and place.is_dir():
            return True
        if place.with_suffix(".py").is_file():
            return not rest or ".".join(rest) in names_in(place.with_suffix(".py"))
    return False


def wrong_imports(document):
    """What Python blocks import from our packages, and is not there."""
    for fence in document.fences:
        if fence.language == "python":
            for node in ast.walk(ast.parse(fence.text)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
                    for alias in node.names:
                        if not is_name([*node.module.split("."), alias.name]):
                            yield f"{document}: {node.module} has no {alias.name}"


@cache
def source_names():
    return {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}


def wrong_paths(document):
    """Paths that are not there.

    A path, in inline code or a block of commands, begins with a folder of the repository, or with one beside the
    document. A bare `name.py` is a file somewhere.
    """
    for line in (*shell_lines(document), *document.code):
        for word in line.split():
            path = word.strip(",;:.()[]\"'")
            if re.fullmatch(r"\w+\.py", path):
                if path not in source_names():
                    yield f"{document}: {path}: no such file"
            elif re.fullmatch(r"[\w-]+/[\w./-]*", path) and "..." not in path:
                folder = path.split("/")[0]
                here = document.path.parent
                bases = [ROOT] * (folder in FOLDERS) + [here] * (here != ROOT and (here / folder).is_dir())
                if bases and not any((base / path).exists() for base in bases):
                    yield f"{document}: {path}: no such file"


# Form


def long_lines(document):
    """Lines of prose that an editor would have to fold. Tables, and words that cannot be broken, may be longer."""
    for number, line in enumerate(document.prose, 1):
        if len(line) > MAX_LINE_LENGTH and not line.startswith("|") and len(line.split()) > 2:
            yield f"{document}:{number}: {len(line)} characters"


CHECKERS = (
    wrong_links,
    wrong_commands,
    wrong_targets,
    wrong_modules_to_run,
    wrong_toml,
    wrong_names,
    wrong_imports,
    wrong_paths,
    long_lines,
)


def test_every_link_leads_to_a_file_and_a_heading():
    assert [fault for document in DOCUMENTS for fault in wrong_links(document)] == []


def test_every_bonfire_command_line_parses_and_its_settings_exist():
    assert [fault for document in DOCUMENTS for fault in wrong_commands(document)] == []
    found = {text.split()[0] for document in DOCUMENTS for text, _ in bonfire_commands(document) if text}
    assert found == set(cli.commands)


def test_every_make_target_exists():
    assert [fault for document in DOCUMENTS for fault in wrong_targets(document)] == []


def test_every_benchmark_that_is_to_be_run_exists():
    assert [fault for document in DOCUMENTS for fault in wrong_modules_to_run(document)] == []


def test_every_toml_block_sets_what_exists():
    assert [fault for document in DOCUMENTS for fault in wrong_toml(document)] == []


def test_every_dotted_name_is_a_setting_or_in_the_code():
    assert [fault for document in DOCUMENTS for fault in wrong_names(document)] == []


def test_every_import_of_a_python_block_exists():
    assert [fault for document in DOCUMENTS for fault in wrong_imports(document)] == []


def test_every_path_of_the_repository_exists():
    assert [fault for document in DOCUMENTS for fault in wrong_paths(document)] == []


def test_prose_is_wrapped():
    assert [fault for document in DOCUMENTS for fault in long_lines(document)] == []


def test_the_readme_is_short():
    assert len(read(ROOT / "README.md").text.splitlines()) <= MAX_README_LINES


# A group's way

WAY_PLACES = (
    "a lease is given",
    "a verdict becomes a weight",
    "A worker is replaced",
    "a checkpoint is written",
)


def group_way(text):
    """The section of docs/architecture.md: its numbered lines, and all of it."""
    section = re.search(r"^## A group's way\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^\d+\. .*|^ +\S.*", section, re.MULTILINE), section


def faults_of_way(text):
    """Lines beyond what can be read at once, places left out, and files and names that are not there.

    Each line begins with a file and its function or `Class.method` (a second method of that class by its name alone).
    What it names besides is `module.function`, or a type of some `types.py` that is handed on.
    """
    lines, section = group_way(text)
    if not 0 < len(lines) <= MAX_WAY_LINES:
        yield f"{len(lines)} lines"
    for place in WAY_PLACES:
        if f"**{place}**" not in section:
            yield f"{place}: is not in it"
    for line in lines:
        if not re.match(r"\d+\. `[\w/]+\.py` `[\w.]+`", line):
            yield f"{line}: does not begin with a file and a function"
    for path, rest in re.findall(r"`([\w/]+\.py)` (.*?)(?=`[\w/]+\.py`|\Z)", section, re.DOTALL):
        file = ROOT / path
        if not file.is_file():
            yield f"{path}: no such file"
            continue
        beginning, _, further = rest.partition(":")
        for name in re.findall(r"`([\w.]+)`", beginning):
            if not any(found == name or found.endswith(f".{name}") for found in names_in(file)):
                yield f"{name}: not in {path}"
        for name in re.findall(r"`([\w.]+)`", further):
            module, _, function = name.rpartition(".")
            sources = [
                one for package in PACKAGES for one in (ROOT / package).rglob(f"{module or 'types'}.py")
            ]
            if not any(function in names_in(source) for source in sources):
                yield f"{name}: in no {module or 'types'}.py"


def test_a_groups_way_names_what_exists():
    assert list(faults_of_way((ROOT / "docs/architecture.md").read_text())) == []


# The checkers themselves

WRONG_COMMANDS = """
`bonfire tarin CONFIG` `bonfire train CONFIG --adress HOST:PORT` `bonfire train my.toml train.setps=5`
`bonfire scale --rollout many` `bonfire eval my.toml evaluation.nothing=1`
```
bonfire train examples/nothing.toml
x -- bonfire submit my.toml
bonfire train-verifier runs/a --set nothing=1
```
"""
WRONG = {
    wrong_links: ("[a](nowhere.md) [b](jobs.md#nothing) ![c](../docs/no.png)", 3),
    wrong_commands: (WRONG_COMMANDS, 8),
    wrong_targets: ("`make dmeo`\n```\ncd bonfire && make tset  # comment\n```", 2),
    wrong_modules_to_run: ("`python -m benchmarks.nothing`", 1),
    wrong_toml: ("```toml\n[train]\nsetps = 5\n[nothing]\n```\n```toml\n= 1\n```", 3),
    wrong_names: ("`train.setps = 5` `learner.nothing` `learner.types.NOTHING` `cluster.controller`", 4),
    wrong_imports: ("```python\nfrom verifiers.types import Nothing\n```", 1),
    wrong_paths: ("`cluster/controller.py` `test_nothing.py` `docs/no/`", 3),
    long_lines: ("word " * 30, 1),
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_checker_finds_what_is_wrong(checker):
    text, num_faults = WRONG[checker]
    sample = Document(path=ROOT / "docs" / "sample.md", text=text)
    assert len(list(checker(sample))) == num_faults


def test_a_wrong_way_is_found():
    right = (ROOT / "docs/architecture.md").read_text()
    for old, new in (
        ("`RolloutFleet.top_up`", "`RolloutFleet.nothing`"),
        ("`Ledger.lease`", "`Ledger.nothing`"),
        ("cluster/leasing/ledger.py", "cluster/ledger.py"),
        ("**a lease is given**", "a lease is given"),
        ("\n15. ", "\n15. `actors/engine.py` `Engine.sample`\n16. "),
    ):
        section = group_way(right)[1]
        assert len(list(faults_of_way(right.replace(section, section.replace(old, new))))) == 1


def test_right_samples_pass_every_checker():
    sample = Document(
        path=ROOT / "docs" / "sample.md",
        text="## An *odd* heading: `a.b`\n[a](#an-odd-heading-ab) [b](../README.md) `bonfire train --resume RUN_DIR` "
        "`bonfire settings [WORD]`\n`learner.json` `learner.ranks` `learner.types.STALENESS_WARNING` `make demo`\n"
        '```\nbonfire: my.toml: train.setps is not a setting\n```\n```toml\n[verifier.options."a:b"]\nany = 1\n```\n',
    )
    assert [fault for checker in CHECKERS for fault in checker(sample)] == []
