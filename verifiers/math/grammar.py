"""A place in the tokens of a formula, and the rules of the grammar that need each other.

`formula` has the rules; `numerals`, `names` and `functions` are parts of it that are written with this.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

from verifiers.math.expression import Expression, integer
from verifiers.math.signs import words
from verifiers.math.tokens import Token


class Unreadable(ValueError):
    """No reading of these tokens is certain."""


GREEK = frozenset(
    words(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar Re Im aleph"
    )
)
CLOSING = {
    "(": ")",
    "[": "]",
    "{": "}",
    r"\{": r"\}",
    r"\lfloor": r"\rfloor",
    r"\lceil": r"\rceil",
    r"\langle": r"\rangle",
}
MAX_DEPTH = 30


def closing(tokens: list[Token], start: int) -> int:
    """Where the bracket at `start` closes; Unreadable where it does not, or crosses another."""
    expected = [CLOSING[tokens[start].text]]
    for position in range(start + 1, len(tokens)):
        text = tokens[position].text
        if text == expected[-1]:
            expected.pop()
            if not expected:
                return position
        elif text in CLOSING:
            expected.append(CLOSING[text])
        elif text in CLOSING.values():
            break
    raise Unreadable("a bracket that does not close")


class Grammar(ABC):
    r"""The tokens and where the reader stands in them; `sign` is what `\pm` stands for."""

    def __init__(self, tokens: list[Token], sign: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        self.tokens = tokens
        self.position = 0
        self.sign = sign
        self.depth = depth

    @abstractmethod
    def sub(self, tokens: list[Token]) -> Expression:
        """All of these tokens, which a bracket encloses."""

    @abstractmethod
    def product(self) -> Expression:
        """Up to the next sign."""

    @abstractmethod
    def power(self) -> Expression:
        """One factor with its exponent."""

    @abstractmethod
    def begins_factor(self, before: Expression) -> bool:
        """Whether a factor follows without a sign."""

    @abstractmethod
    def absolute(self) -> Expression:
        """What bars enclose."""

    def peek(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index].text if index < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index].kind if index < len(self.tokens) else ""

    def take(self) -> Token:
        if self.position >= len(self.tokens):
            raise Unreadable("ends too early")
        self.position += 1
        return self.tokens[self.position - 1]

    def bracketed(self) -> list[Token]:
        """What stands in the bracket that opens here."""
        end = closing(self.tokens, self.position)
        inner = self.tokens[self.position + 1 : end]
        self.position = end + 1
        return inner

    def argument(self) -> Expression:
        r"""Of a command: a group, or one token; `\frac12` has the digits 1 and 2."""
        if self.peek() == "{":
            return self.sub(self.bracketed())
        token = self.take()
        if token.kind == "number" and len(token.text) > 1:
            if not token.text.isdigit():
                raise Unreadable("a number without braces")
            rest = dataclasses.replace(token, text=token.text[1:], is_spaced=False)
            self.tokens = [*self.tokens[: self.position], rest, *self.tokens[self.position :]]
            return integer(int(token.text[0]))
        if token.kind not in ("number", "letter") and token.text.removeprefix("\\") not in {*GREEK, "pi"}:
            raise Unreadable(f"{token.text!r} as an argument")
        return self.sub([token])

    def arguments(self, tokens: list[Token]) -> list[Expression]:
        """Of a function, with commas between them."""
        parts: list[list[Token]] = [[]]
        depth = 0
        for token in tokens:
            depth += (token.text in CLOSING) - (token.text in CLOSING.values())
            if token.text == "," and depth == 0:
                parts.append([])
            else:
                parts[-1].append(token)
        return [self.sub(part) for part in parts]

    def split_word(self) -> None:
        """Letters that are a product, one by one."""
        token = self.tokens[self.position]
        letters = [
            Token("letter", letter, token.is_spaced and not index) for index, letter in enumerate(token.text)
        ]
        self.tokens = [*self.tokens[: self.position], *letters, *self.tokens[self.position + 1 :]]
