r"""The signs of LaTeX and Unicode that mean the same, and commands that change nothing but the looks."""

from __future__ import annotations

import re
import unicodedata


def words(text: str) -> list[str]:
    """A table of words, written as a line of them."""
    return text.split()


TEXT_COMMANDS = set(words("text textrm textnormal mbox hbox textup textbf textit textsf texttt"))
UPRIGHT_COMMANDS = {"mathrm", "operatorname", "mathsf", "mathop", "rm"}
TRANSPARENT = {
    *words("mathbf boldsymbol bm mathit mathnormal mathcal underline emph boxed fbox ensuremath"),
    *words("mathstrut textstyle displaystyle scriptstyle limits nolimits bf it sf tt small"),
    *words("left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr large"),
    *words(
        "Biggl Biggr huge Huge LARGE footnotesize scriptsize tiny pmb nonumber notag boldmath Large normalsize operatorname* protect strut"
    ),
}
SPACES = {
    ",",
    ";",
    ":",
    ">",
    " ",
    "quad",
    "qquad",
    "enspace",
    "thinspace",
    "medspace",
    "\n",
    "\t",
    "space",
    "newline",
}
ALIASES = {
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "dbinom": "binom",
    "tbinom": "binom",
    "varnothing": "emptyset",
    "le": "leq",
    "leqslant": "leq",
    "leqq": "leq",
    "ge": "geq",
    "geqslant": "geq",
    "geqq": "geq",
    "ne": "neq",
    "lvert": "|",
    "rvert": "|",
    "vert": "|",
    "mid": "|",
    "lbrace": "{",
    "rbrace": "}",
    "lbrack": "[",
    "rbrack": "]",
    "ast": "times",
    "thickapprox": "approx",
    "simeq": "approx",
    "approxeq": "approx",
    "colon": ":",
    "setminus": "backslash",
    "smallsetminus": "backslash",
    "lor": "or",
    "vee": "or",
    "wedge": "and",
    "land": "and",
    "lt": "<",
    "gt": ">",
    "dots": "ldots",
    "cdots": "ldots",
    "lg": "log",
    "varepsilon": "epsilon",
    "varphi": "phi",
    "vartheta": "theta",
    "degree": "degree",
    "arcsec": "arcsec",
    "to": "rightarrow",
    "implies": "Rightarrow",
    "dot": "dot",
    "bar": "overline",
    "R": "mathbbR",
    "reals": "mathbbR",
    "lparen": "(",
    "rparen": ")",
    "isin": "in",
    "perthousand": "permille",
    "euro": "€",
    "pounds": "£",
    "cent": "¢",
}
MARKS = {"|", "{", "}", "[", "]", "(", ")", ":", "<", ">"}
MATRICES = {"pmatrix", "bmatrix", "matrix", "smallmatrix", "Bmatrix", "array", "vmatrix", "Vmatrix"}

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_UNICODE = {
    **dict.fromkeys("−–—‒―﹣‐‑", "-"),
    **dict.fromkeys("×✕✖⨯∗", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("’′", "'"),
    "÷": r"\div ", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ",
    "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}",
    "ℝ": r"\mathbb{R}", "∖": r"\setminus ", "″": "''", "º": r"^{\circ}", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∠": r"\angle ",
    "“": '"', "”": '"', "⟨": r"\langle ", "⟩": r"\rangle ", "≡": r"\equiv ", "ℤ": r"\mathbb{Z}", "…": r"\ldots ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
    "\u200b": "", "\ufeff": "", "\u2061": "", "\u2062": "", "\u2009": " ", "\u202f": " ", "\u00a0": " ", "✓": "", "✅": "",
    **dict(zip("αβγδεζηθικλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ", (
        rf"\{name} "
        for name in words("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi "
        "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega")
    ), strict=True)),
    "ϕ": r"\phi ",
}  # fmt: skip
_RUNS = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+|[{''.join(_SUBSCRIPTS)}]+")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def plain_unicode(text: str) -> str:
    """The text with signs of Unicode as LaTeX has them; `½` is `\\frac{1}{2}`, `x²` is `x^{2}`."""
    if text.isascii():
        return text
    text = _RUNS.sub(_script, text)
    return _BEYOND_ASCII.sub(_sign, text)


def _script(run: re.Match[str]) -> str:
    script, table = ("^", _SUPERSCRIPTS) if run[0][0] in _SUPERSCRIPTS else ("_", _SUBSCRIPTS)
    return f"{script}{{{''.join(table[character] for character in run[0])}}}"


def _sign(match: re.Match[str]) -> str:
    character = match[0]
    if character in _UNICODE:
        return _UNICODE[character]
    normal = unicodedata.normalize("NFKC", character)
    if "⁄" in normal:
        numerator, _, denominator = normal.partition("⁄")
        return rf"\frac{{{numerator}}}{{{denominator or '1'}}}"
    return normal if normal.isascii() else character


_SPLITTABLE = (
    *words(
        "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln log exp cdot times pi alpha beta gamma"
    ),
    *words("delta theta lambda omega sigma rho phi psi mu nu tau Delta Omega epsilon quad infty pm circ"),
)
_COMMANDS = frozenset(
    words(
        "frac sqrt binom vec hat bar tilde overline widehat overrightarrow ddot dot lfloor rfloor lceil rceil langle "
        "rangle sum prod int oint lim infty leq geq neq approx equiv in notin cup cap backslash emptyset angle triangle "
        "parallel perp rightarrow Rightarrow prime degree circ ldots over choose div pm mp eta zeta iota kappa xi chi "
        "upsilon Gamma Theta Lambda Xi Pi Sigma Phi Psi ell hbar Re Im aleph partial nabla mod pmod bmod subset subseteq "
        "varnothing dfrac tfrac cfrac dbinom tbinom leftarrow leftrightarrow Leftrightarrow longrightarrow because "
        "therefore max min gcd lcm sup inf det dim ker deg arg arcsec arccsc arccot coth sech csch cong sim propto "
        "odot oplus otimes bullet star cancel not mathring exists forall neg lnot square sinx mapsto iff permille "
        "widetilde overleftrightarrow underbrace overbrace stackrel overset underset substack tag ref mu nu"
    )
)


def split_command(name: str) -> tuple[str, str]:
    r"""`\pit` is `\pi t`: a command that nobody knows begins with one that is known."""
    if name in _COMMANDS or name in ALIASES or name in _SPLITTABLE or len(name) < 3:
        return name, ""
    for known in sorted(_SPLITTABLE, key=len, reverse=True):
        if name.startswith(known):
            return known, name[len(known) :]
    return name, ""
