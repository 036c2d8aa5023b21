r"""Regular expressions of pre-tokenizers: those of public models, random ones, and those that no phone runs.

What they cut is found with the library, whose expressions are Oniguruma's in the syntax of Ruby.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import tokenizers


def _split(expression: str, behavior: str = "Isolated", *, invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}


_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTED}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTED}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_POSSESSIVE_GPT_2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_POSSESSIVE_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s*+[\r\n]++|\s+(?!\S)|\s++"
)
_MARKED_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SIGNS_AND_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PUBLIC: dict[str, list[dict[str, Any]]] = {
    "gpt-4o": [_split(_O200K)],
    "cl100k": [_split(_CL100K)],
    "cl100k-removed": [_split(_CL100K, "Removed", invert=True)],
    "words-alone": [_split(r"\p{L}+", "Removed", invert=True)],
    "gpt-2-possessive": [_split(_POSSESSIVE_GPT_2)],
    "qwen-possessive": [_split(_POSSESSIVE_QWEN)],
    "marked-letters": [_split(_MARKED_LETTERS)],
    "deepseek-v3": [
        _split(r"\p{N}{1,3}"),
        _split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        _split(_SIGNS_AND_WORDS),
    ],
    "deepseek": [
        _split("[\r\n]"),
        _split(r"\s?\p{L}+"),
        _split(r"\s?\p{P}+"),
        _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        {"type": "Digits", "individual_digits": True},
    ],
    "digits": [{"type": "Digits", "individual_digits": False}],
}
"""The forms of the pre-tokenizers of models that people publish."""

REFUSED = {
    r"(a)\1": "backreference",
    r"(?<n>a)\k<n>": "named group",
    r"(?<n>a)": "named group",
    r"a\g<0>": "recursion",
    r"(?R)": "recursion",
    r"(?~ab)": "absent",
    r"(?(1)a|b)": "condition",
    r"(?#x)a": "comment",
    r"(?x:a b)": "options",
    r"(?m:a.)": "options",
    r"a(?i)b": "options",
    r"(?<=a+)b": "behind",
    r"(?<!\s*x)b": "behind",
    r"[[:alpha:]]+": "POSIX",
    r"[a[bc]]": "class within",
    r"[a-z&&[^x]]": "intersection",
    r"[]a]": "comes first",
    r"\Ga": "implemented",
    r"a\Kb": "implemented",
    r"\Ra": "implemented",
    r"\X": "implemented",
    r"a\y": "implemented",
    r"\p{Alpha}+": "not known",
    r"\p{Emoji}": "not known",
    r"\pL+": "braces",
    r"\012a": "octal",
    r"\xE9": "no character",
    r"(?i:é)": "ASCII",
    r"(?i:straSSe)": "single character",
    r"(?i:\p{Lu})": "case",
    r"(?i:[à-ü])": "ASCII",
    r"(?i:s{2})": "repeated s",
    r"a**": "repeats a repetition",
    r"*a": "repeats nothing",
    r"(?:a*)+": "may be empty",
    r"(?:a*){2}+b": "may be empty",
    r"(?=a)*b": "no characters",
    r"\s*": "without characters",
    r"a|": "without characters",
    r"a{2000}": "1000 times",
    r"(?:(?:abc){1,100}){1,100}x": "too long",
    r"a)": "without its (",
    r"(a": "without its )",
    r"[a": "without its ]",
    r"[z-a]": "wrong order",
    "(" * 60 + "a" + ")" * 60: "nested",
    "a" * 10_001: "longer",
}
"""What is refused, with a word of the reason."""


def document() -> dict[str, Any]:
    """Everything but the public ones."""
    return {
        "random": list(random_cases()),
        "refused": [{"expression": expression, "word": word} for expression, word in REFUSED.items()],
    }


def random_cases() -> Iterator[dict[str, Any]]:
    """Expressions of everything that is implemented, over texts of few characters."""
    rng = random.Random(16)
    alphabet = "aAbsS\u017fkK19é ½\t\n\r '._-日👍\u0301\u00a0"
    for expression in (*_CORNERS, *(_choice(rng, 3) for _ in range(4000))):
        texts = [*_TEXTS, *("".join(rng.choices(alphabet, k=rng.randint(1, 14))) for _ in range(12))]
        try:
            split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
        except Exception:  # the library's own type is Exception itself
            continue
        try:
            pieces = [[piece for piece, _ in split.pre_tokenize_str(text)] for text in texts]
        except BaseException as error:
            # Some backtrack without end, which ends in a panic of the library.
            if type(error).__name__ != "PanicException":
                raise
            continue
        yield {"expression": expression, "texts": texts, "pieces": pieces}


_TEXTS = ("a\n", "a\nab\n\n", "abAbAaaA", "a\u00b3 \u00bc b\u00b9")
_CORNERS = (r"\n^|a", r"[a\n]+^", r"(?<=(?<=a)b)A|b", r"(?<!(?<!a)b)[bA]", r"(?<=(?=b)b)A|.", r"(?:a|b){,2}+A")
"""What chance seldom finds."""


def _choice(rng: random.Random, depth: int) -> str:
    return "|".join(_sequence(rng, depth) for _ in range(rng.choice((1, 1, 2, 3))))


def _sequence(rng: random.Random, depth: int) -> str:
    return "".join(_atom(rng, depth) + _count(rng) for _ in range(rng.randint(1, 3)))


def _count(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return ""
    count = rng.choice(("*", "+", "?", "{1,3}", "{2}", "{2,}", "{,2}", "{0,2}"))
    return count + rng.choice(("", "", "?", "+"))


_CLASSES = (
    r"[ab]",
    r"[^\s\p{L}\p{N}]",
    r"[^\r\n\p{L}\p{N}]",
    r"[\p{Lu}\p{M}]",
    r"[a-s_-]",
    r"[\d'.\-]",
    r"[^\S\n]",
    r"[\w-]",
    r"[\P{L}]",
    r"[^a-z]",
    r"[\p{^N}1]",
    r"[一-龥]",
    r"[\x41\u00e9\x{1F44D}]",
    r"[\D]",
    r"[\h ]",
    r"[^\w\s]",
    r"[+*?.(|]",
)
_SHORT = (
    r"\p{L}",
    r"\p{N}",
    r"\p{Ll}",
    r"\P{L}",
    r"\p{^M}",
    r"\p{Letter}",
    r"\p{Han}",
    r"\p{Lowercase_Letter}",
    r"\p{P}",
    r"\s",
    r"\S",
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\h",
    ".",
    r"\n",
    r"\t",
    r"\x41",
    r"\u00e9",
    r"\.",
    r"\-",
    "}",
    "]",
)
_IGNORING = ("'s", "[sdmt]", "s|k", "'ll|a", "[a-k]", "[^ab]", "b1", "a.", "ka?")


def _atom(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        return rng.choice("aAbsk19 é.'日👍")
    if kind < 0.55:
        return rng.choice(_CLASSES)
    if kind < 0.75:
        return rng.choice(_SHORT)
    if kind < 0.8:
        return f"(?i:{rng.choice(_IGNORING)})"
    if kind < 0.85:
        return rng.choice(("^", "$", r"\A", r"\z", r"\Z", r"\b", r"\B"))
    inner = _choice(rng, depth - 1)
    return rng.choice(("(?:{})", "({})", "(?:{})", "(?>{})", "(?={})", "(?!{})", "(?<={})", "(?<!{})")).format(
        inner
    )
