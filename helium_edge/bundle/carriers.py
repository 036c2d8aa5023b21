"""What may lie beside a bundle because of how it travelled: traces of git, the Hub, archives and file managers.

None of it is ever opened or run, listed in a manifest, or sent to a phone. Everything else that a manifest does
not list is refused: a library, a config or a script beside the graphs may change what a host does.
"""

from __future__ import annotations

import re

CARD = "README.md"
"""The model card, which the Hub lets people edit on its page; no host reads it."""

_FOLDERS = {
    ".git": "git",
    ".cache/huggingface": "hf download",
    ".huggingface": "hf download",
    "__MACOSX": "a zip archive of macOS",
    ".Spotlight-V100": "macOS",
    ".Trashes": "macOS",
    ".fseventsd": "macOS",
}
_FILES = {
    CARD: "the model card, for readers",
    ".git": "git",
    ".gitattributes": "git",
    ".gitignore": "git",
    ".DS_Store": "macOS",
    ".localized": "macOS",
    "Thumbs.db": "Windows",
    "ehthumbs.db": "Windows",
    "desktop.ini": "Windows",
    ".directory": "KDE",
}
_PATTERNS = (
    (re.compile(r"(LICENSE|LICENCE|NOTICE|COPYING|USE_POLICY)(\.md|\.txt)?"), "licence, for readers"),
    (re.compile(r"helium-edge\.json\.(sig|minisig|asc|sigstore\.json)"), "a signature"),
    (re.compile(r"\._.+"), "macOS"),
    (re.compile(r"\.nfs[0-9a-f]{8,}"), "NFS: a deleted file that a program holds open"),
    (re.compile(r".+~"), "an editor's copy"),
    (re.compile(r"\..+\.sw[a-p]"), "an editor's copy"),
)
_ABOVE = {parent for path in _FOLDERS for parent in [path.rpartition("/")[0]] if parent}


def carrier_file(path: str) -> str:
    """What leaves a file of this path beside a bundle; empty for every other one."""
    name = path.rpartition("/")[2]
    if name in _FILES:
        return _FILES[name]
    return next((what for pattern, what in _PATTERNS if pattern.fullmatch(name)), "")


def carrier_folder(path: str) -> str:
    """What leaves a folder of this path beside a bundle; empty for every other one."""
    return _FOLDERS.get(path, "")


def holds_carriers(path: str) -> bool:
    """Whether a folder is there for a carrier alone, as `.cache` for `.cache/huggingface`."""
    return path in _ABOVE
