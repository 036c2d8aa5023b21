"""What the demo calls of the two runtimes, against its stubs and what the runtimes publish.

foreign.py check CLASSES           compares sdk-stubs, published.txt, and what the compiled classes call
foreign.py list CLASSES            prints every foreign member that they call: what to look at before a new version
foreign.py publish NAME SOURCES    writes a runtime's part of published.txt from its sources (a clone of the tag):
                                   executorch .../extension/android/executorch_android/src/main/java, or
                                   onnxruntime .../java/src/main/java
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

STUBS = Path(__file__).parent / "sdk-stubs"
PUBLISHED = STUBS / "published.txt"
FOREIGN = ("ai/onnxruntime/", "org/pytorch/executorch/", "android/")
RUNTIMES = ("onnxruntime", "executorch")

_NOISE = re.compile(
    r"\b(?:public|open|override|final|abstract|synchronized|internal|native|external)\b ?|@\w+(?:\([^)]*\))? ?"
)
_KOTLIN = re.compile(
    r"(?:const )?va[lr] (\w+)(: [\w<>?.]+)?|fun (\w+)\(([^()]*)\)(?:: ([\w<>?.]+))?|class (\w+)|companion object"
)
_JAVA_METHOD = re.compile(r"(?:static )?(?:([\w<>\[\]., ?]+) )?(\w+)\(([^()]*)\)(?: ?throws ([\w., ]+))?$")


# -- declarations in sources


def declarations(file: Path) -> Iterator[str]:
    """One line `Class.member` for each declaration that is not private."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text)
    yield from (_kotlin if file.suffix == ".kt" else _java)(text)


def _scopes(text: str, ends: str) -> Iterator[tuple[list[str], str, str]]:
    """Headers in their scopes: the headers around each, itself, and what ends it."""
    stack: list[str] = []
    header, parens = "", 0
    for char in text:
        parens += {"(": 1, ")": -1}.get(char, 0)
        if char in "{}" or (char in ends and parens == 0):
            found = " ".join(header.split())
            if found:
                yield stack, found, char
            if char == "{":
                stack = [*stack, found]
            elif char == "}":
                stack = stack[:-1]
            header = ""
        else:
            header += char


def _kotlin(text: str) -> Iterator[str]:
    # A header goes on behind the break before a colon or the constructor's parentheses.
    text = re.sub(r"@\w+(?:\([^)\n]*\))?", "", text)
    text = re.sub(r"\s+(?=[:{=]|(?:private |internal )?constructor\b)|(?<=:)\s+", " ", text)
    for around, header, _ in _scopes(text, "\n"):
        names = [_class_name(scope) for scope in around]
        if (
            not all(names)
            or re.search(r"\b(?:private|protected|internal)\b(?! constructor)", header)
            or " get()" in f" {header}"
        ):
            continue
        for found in _KOTLIN.finditer(_NOISE.sub("", header)):
            name = ".".join(filter(None, names))
            if found[6] or found[0] == "companion object":
                yield from _properties(".".join(filter(None, [name, _class_name(header)])), header)
            elif found[1]:
                yield f"{name}.val {found[1]}{found[2] or ''}"
            else:
                parameters = ", ".join(_kotlin_parameter(part) for part in _split(found[4]))
                result = "" if found[5] in (None, "Unit") else f": {found[5]}"
                yield f"{name}.fun {found[3]}({parameters}){result}"
            break


def _properties(name: str, header: str) -> Iterator[str]:
    """Those that a constructor declares."""
    inside = re.search(r"\((.*?)\) ?[:{]?", header)
    for part in _split(inside[1]) if inside else []:
        if found := re.match(r"va[lr] (\w+: [\w<>?.]+)", _NOISE.sub("", part)):
            yield f"{name}.val {found[1]}"


def _kotlin_parameter(part: str) -> str:
    found = re.match(r"(vararg )?\w+: ([\w<>?.]+)( ?=)?", part.strip())
    return f"{found[1] or ''}{found[2]}{' =' if found[3] else ''}" if found else part


def _class_name(header: str) -> str | None:
    if found := re.search(r"\b(?:class|interface|enum) (\w+)", header):
        return found[1]
    return "Companion" if "companion object" in header else None


def _java(text: str) -> Iterator[str]:
    for around, header, end in _scopes(text, ";"):
        names = [_class_name(scope) for scope in around]
        if not around or not all(names):
            continue
        name = ".".join(filter(None, names))
        if (
            re.search(r"\benum \w+$", around[-1].strip())
            and (end == ";" or end == "}")
            and re.match(r"[A-Z0-9_]+\b", header)
        ):
            constants = re.sub(r"\([^)]*\)", "", header)
            yield from (f"{name}.{constant.strip()}" for constant in constants.split(",") if constant.strip())
            continue
        plain = (
            _NOISE.sub("", header.split("=")[0]).strip()
            if "(" not in header.split("=")[0]
            else _NOISE.sub("", header).strip()
        )
        if re.search(r"\b(?:private|protected|class|enum|interface)\b", header):
            continue
        if found := _JAVA_METHOD.match(plain):
            parameters = ", ".join(" ".join(part.split()[:-1]) for part in _split(found[3]))
            static = "static " if plain.startswith("static ") else ""
            kind = found[1] + " " if found[1] else "new "
            yield f"{name}.{static}{kind}{found[2]}({parameters}){' throws ' + found[4] if found[4] else ''}"
        elif re.match(r"[\w<>\[\].]+ \w+$", plain) and "public" in header:
            yield f"{name}.{plain}"


def _split(parameters: str) -> list[str]:
    """Parameters, at the commas that are in no angle brackets."""
    parts, depth = [""], 0
    for char in parameters:
        depth += {"<": 1, ">": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def stubbed(runtime: str) -> set[str]:
    """Declarations of a runtime's stubs, without the constructors and helpers that only they have."""
    return {line for file in sorted((STUBS / runtime).iterdir()) for line in declarations(file)}


# -- members in compiled classes


def called(classes: Path) -> set[str]:
    """Foreign members in the constant pools below a folder, as `owner.name descriptor`."""
    return {member for file in classes.rglob("*.class") for member in _members(file.read_bytes())}


def _members(data: bytes) -> Iterator[str]:
    count = struct.unpack_from(">H", data, 8)[0]
    pool: list[tuple[int, ...] | str | None] = [None] * count
    at, index = 10, 1
    while index < count:
        tag = data[at]
        if tag == 1:
            size = struct.unpack_from(">H", data, at + 1)[0]
            pool[index] = data[at + 3 : at + 3 + size].decode("utf-8", "replace")
            at += 3 + size
        elif tag in (7, 8, 16, 19, 20):
            pool[index] = struct.unpack_from(">H", data, at + 1)
            at += 3
        elif tag in (9, 10, 11, 12, 17, 18):
            pool[index] = (tag, *struct.unpack_from(">HH", data, at + 1))
            at += 5
        elif tag == 15:
            at += 4
        else:
            at += 9 if tag in (5, 6) else 5
            index += tag in (5, 6)
        index += 1
    for entry in pool:
        if isinstance(entry, tuple) and len(entry) == 3 and entry[0] in (9, 10, 11):
            owner = pool[pool[entry[1]][0]]  # type: ignore[index]
            _, name, descriptor = pool[entry[2]]  # type: ignore[misc]
            if isinstance(owner, str) and owner.startswith(FOREIGN):
                yield f"{owner}.{pool[name]} {pool[descriptor]}"


# -- the three compared


def published(runtime: str) -> set[str]:
    """What published.txt has of a runtime."""
    found: dict[str, set[str]] = {}
    for line in PUBLISHED.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]").split()[0], set())
        elif line and not line.startswith("#"):
            lines.add(line)
    return found.get(runtime, set())


def check(classes: Path) -> list[str]:
    """One line for each stub that is not as published, and each that nothing calls."""
    problems = []
    calls = called(classes)
    names = {re.sub(r"^(?:get|set|is)(?=[A-Z])", "", call.split(".")[1].split()[0]).lower() for call in calls}
    sources = "\n".join(
        file.read_text(encoding="utf-8")
        for file in Path(__file__).parents[1].rglob("*.kt")
        if "sdk-stubs" not in file.parts
    )
    for runtime in RUNTIMES:
        stubs, known = stubbed(runtime), published(runtime)
        problems += [
            f"{runtime}: the stub declares {line}, which is not what is published"
            for line in sorted(stubs - known)
        ]
        problems += [f"{runtime}: {line} is published and has no stub" for line in sorted(known - stubs)]
        for line in sorted(stubs):
            name = re.findall(r"\w+(?=\()|\w+(?=:)|\w+$", line.split(".", 1)[1])[0]
            plain = re.sub(r"^(?:get|set|is)(?=[A-Z])", "", name)
            if plain.lower() not in names and not re.search(
                rf"\b(?:{name}|{plain[:1].lower()}{plain[1:]})\b", sources
            ):
                problems.append(f"{runtime}: nothing uses {line}: take it out of the stubs")
    return problems


def publish(runtime: str, sources: Path) -> list[str]:
    """The lines of published.txt of what is stubbed, as the sources declare it."""
    package = next(
        path for path in sources.rglob("EValue.kt" if runtime == "executorch" else "OrtSession.java")
    ).parent
    files = [file for file in package.iterdir() if file.suffix in (".kt", ".java")]
    real = {line for file in files for line in declarations(file)}
    return sorted(line for line in real if any(_same_member(line, stub) for stub in stubbed(runtime)))


def _same_member(one: str, other: str) -> bool:
    """Whether two lines are the same member, up to its types; overloads are told apart by their parameters."""

    def key(line: str) -> tuple[str, ...]:
        owner = re.match(r"[\w.]*?(?=\.(?:val|fun|static|new|\w+[ <\[]|[A-Z0-9_]+$))", line)
        name = re.findall(r"\w+(?=\()|\w+(?=:)|\w+$", line)[0]
        types = re.findall(r"\(([^()]*)\)", line)
        return (owner[0] if owner else "", name, re.sub(r"[^\w,]", "", types[0]) if types else "")

    return key(one)[:2] == key(other)[:2] and (
        key(one)[2] == key(other)[2] or not key(one)[2] or not key(other)[2]
    )


def main(arguments: list[str]) -> int:
    command = arguments[0]
    if command == "list":
        sys.stdout.write("\n".join(sorted(called(Path(arguments[1])))) + "\n")
        return 0
    if command == "publish":
        sys.stdout.write("\n".join(publish(arguments[1], Path(arguments[2]))) + "\n")
        return 0
    problems = check(Path(arguments[1]))
    sys.stdout.write(("\n".join(problems) or "stubs are as published, and used") + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
