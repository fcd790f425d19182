"""What a Markdown file of the repository is made of: prose, fenced blocks, inline code, links, anchors."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.shared.paths import ROOT

FOLDERS = ("docs", "benchmarks", "examples", "deploy", "verifiers", "actors", "learner", "cluster", "tests")
"""Those of the repository; what else lies beside them (runs, environments) is not ours."""


@dataclass(frozen=True, kw_only=True)
class Fence:
    """A fenced block: its language, "" if it names none, and its text."""

    language: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A Markdown file, or a text that stands for one at `path`."""

    path: Path
    text: str

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def _parted(self) -> tuple[list[str], list[Fence]]:
        """The lines, empty where a fenced block is, and the blocks."""
        prose, fences = [], []
        inside: list[str] | None = None
        language = ""
        for line in self.text.splitlines():
            if mark := re.fullmatch(r"\s*```(\w*)", line.rstrip()):
                if inside is None:
                    inside, language = [], mark[1]
                else:
                    fences.append(Fence(language=language, text=textwrap.dedent("\n".join(inside))))
                    inside = None
            elif inside is not None:
                inside.append(line)
            prose.append("" if inside is not None or mark else line)
        return prose, fences

    @property
    def prose(self) -> list[str]:
        """Every line, in its place; those of fenced blocks are empty."""
        return self._parted[0]

    @property
    def fences(self) -> list[Fence]:
        return self._parted[1]

    @cached_property
    def code(self) -> list[str]:
        """Inline code, on one line each."""
        paragraphs = re.split(r"\n\s*\n|\n(?=\s*\|)", "\n".join(self.prose))
        return [" ".join(span.split()) for text in paragraphs for span in re.findall(r"`([^`]+)`", text)]

    @cached_property
    def links(self) -> list[str]:
        """Targets of links and pictures."""
        without_code = re.sub(r"`[^`]+`", "", "\n".join(self.prose))
        return re.findall(r"\]\(\s*([^)\s]+)\s*\)", without_code)

    @cached_property
    def anchors(self) -> set[str]:
        """Of the headings, by GitHub's rules."""
        found: set[str] = set()
        for line in self.prose:
            if heading := re.match(r"#+ +(.*)", line):
                text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1])
                anchor = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
                num_before = sum(
                    re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in found
                )
                found.add(f"{anchor}-{num_before}" if num_before else anchor)
        return found


def read(path: Path) -> Document:
    return Document(path=path, text=path.read_text())


def documents() -> list[Document]:
    """README, CONTRIBUTING, and every Markdown file in a folder of the repository."""
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))]
    return [read(path) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *inside)]
