from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_edge.errors import InputError
from helium_edge.parity.document import check_document, read_document
from helium_edge.parity.schema import document_schema as parity_schema
from tests.unit.cli.test_export_command import make_report
from tests.unit.report.documents import failing, over_budget, passing

SCHEMA = jsonschema.Draft202012Validator(json.loads(parity_schema()))


@pytest.mark.parametrize("make", [passing, failing, over_budget])
def test_documents_fit_the_models_and_the_schema(make: Any) -> None:
    document = make()
    assert check_document(document, where="here") is document
    SCHEMA.validate(document)


def test_a_file_holds_the_document_or_what_the_command_printed(tmp_path: Path) -> None:
    bare, wrapped = tmp_path / "bare.json", tmp_path / "wrapped.json"
    bare.write_text(json.dumps(passing()), encoding="utf-8")
    wrapped.write_text(json.dumps({"error": {"message": "x"}, "parity": failing()}), encoding="utf-8")
    assert read_document(bare) == json.loads(json.dumps(passing()))
    assert read_document(wrapped)["passed"] is False


def test_what_a_run_finds_fits_the_schema() -> None:
    document = make_report(0.02).to_json()
    assert check_document(document, where="here") is document
    SCHEMA.validate(document)


def _places(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place, *(inner for key in keys for inner in _places(node[key], (*place, key)))]


PLACES = sorted({place[:7] for place in _places(failing())[1:]}, key=str)
WRONG = st.sampled_from([None, True, -1, 0.5, 8.0, "", "x", [], [[]], {}, {"a": 1}])


@settings(max_examples=300)
@given(st.sampled_from(PLACES), WRONG)
def test_the_models_refuse_all_that_the_schema_refuses(place: tuple[Any, ...], value: Any) -> None:
    document: Any = failing()
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    try:
        check_document(document, where="here")
    except InputError:
        return
    assert [error.message for error in SCHEMA.iter_errors(document)] == []


@pytest.mark.parametrize(
    ("version", "words", "remedy"),
    [("3.0", "version 3.0", "git pull"), ("1.0", "version 1.0", "again"), ("two", "version two", "again"),
     (None, "version None", "again")],
)  # fmt: skip
def test_another_major_version_is_refused(version: object, words: str, remedy: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_document({**passing(), "schema_version": version}, where="old.json")
    assert caught.value.message.startswith("old.json: ")
    assert remedy in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_later_minor_version_may_add_fields() -> None:
    document = passing()
    document["levels"]["L3"]["overall"]["new"] = 1
    check_document({**document, "schema_version": "2.7", "more": []}, where="here")


def test_the_wrong_field_is_named() -> None:
    document = passing()
    document["levels"]["L3"]["languages"]["fr"]["kld_mean"] = "small"
    with pytest.raises(InputError, match=r"levels\.L3\.languages\.fr\.kld_mean: 'small' is not"):
        check_document(document, where="here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not a parity document"),
        ('{"schema": "helium-edge"}', "not a parity document"),
        ('{"error": {"message": "the disk is full"}}', "no figures: the disk is full"),
        ('{"error": 1}', "no figures"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_document(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=r"not readable|not a regular file"):
            read_document(path)
