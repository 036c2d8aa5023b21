"""The checksum of a manifest: no byte of it can change unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helium_edge.bundle import open_bundle, verify_bundle
from helium_edge.bundle.manifest import SCHEMA_VERSION
from helium_edge.bundle.seal import SEAL, seal_problem, sealed_json
from helium_edge.errors import BundleError
from tests.unit.bundle.bundles import make_manifest, write_bundle

TEXT = make_manifest().to_json().encode()


def test_a_whole_manifest_has_no_problem() -> None:
    assert seal_problem(TEXT, "1.1") == ""
    assert sealed_json(json.loads(TEXT)).encode() == TEXT


def test_any_flipped_bit_of_any_byte_is_noticed() -> None:
    for position in range(len(TEXT)):
        flipped = bytearray(TEXT)
        flipped[position] ^= 1 << position % 8
        assert seal_problem(bytes(flipped), "1.1"), position
    # Made an older version, which needs no checksum, it still has one.
    assert seal_problem(TEXT.replace(SCHEMA_VERSION.encode(), b"1.0"), "1.0")


@pytest.mark.parametrize("cut", [b"", b" ", b"\n"])
def test_what_is_added_is_noticed(cut: bytes) -> None:
    assert seal_problem(TEXT + b" " + cut, "1.1")


def test_another_key_of_that_name_below_is_no_checksum() -> None:
    manifest = make_manifest(parity={SEAL: "0" * 64, "text": f'\n  "{SEAL}": "{"0" * 64}"'})
    text = manifest.to_json().encode()
    assert seal_problem(text, "1.1") == ""


def test_only_older_versions_may_lack_it() -> None:
    data = json.loads(TEXT)
    del data[SEAL]
    text = json.dumps(data).encode()
    assert seal_problem(text, "1.0") == ""
    assert "has no manifest_sha256" in seal_problem(text, "1.1")
    assert "has no manifest_sha256" in seal_problem(text, "1.7")


def test_a_value_that_no_schema_can_judge(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    path = bundle / "helium-edge.json"
    path.write_text(path.read_text().replace('"tiny-int4"', '"tiny-int5"'))
    for check in (verify_bundle, open_bundle):
        with pytest.raises(BundleError, match="was changed: its sha256 is not the manifest_sha256 in it"):
            check(bundle)
    assert open_bundle(bundle, unverified=True).manifest.name == "tiny-int5"
