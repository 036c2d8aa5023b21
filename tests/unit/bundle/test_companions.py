from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from helium_edge.bundle import (
    GenerationSection,
    GraphEntry,
    OutputSection,
    SourceSection,
    beyond_genai,
    check_companions,
    generation_defaults,
    read_checkpoint_card,
    tokenizer_facts,
    write_card,
    write_companions,
    write_genai_config,
)
from helium_edge.bundle.card import CheckpointCard, render_card
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.config import ModelConfig
from helium_edge.errors import CheckpointError, InputError
from helium_edge.signature import GraphSignature
from tests.helpers.added_tokens import token
from tests.helpers.checkpoints import tiny_config
from tests.unit.bundle.bundles import CACHE, CONFIG, make_manifest

GREEDY = GenerationSection()


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Checkpoint:
    """A copy that a test may change."""
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    return open_checkpoint(str(tmp_path / "checkpoint"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


def test_files_of_the_checkpoint_are_copied_byte_for_byte(checkpoint: Checkpoint, folder: Path) -> None:
    odd = b'{"a":\r\n 1.50,  "\xc3\xa9": null}'
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (checkpoint.folder / name).write_bytes(odd)
    (checkpoint.folder / "generation_config.json").write_bytes(b'{"top_k":\r\n 1.0}')
    (checkpoint.folder / "secrets.txt").write_text("not for the bundle")
    checkpoint = open_checkpoint(str(checkpoint.folder))
    write_companions(checkpoint, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in checkpoint.tokenizer_files()} | {
        "config.json",
        "generation_config.json",
    }
    for name in names:
        assert (folder / name).read_bytes() == (checkpoint.folder / name).read_bytes()


def test_a_missing_generation_config_is_written(checkpoint: Checkpoint, folder: Path) -> None:
    write_companions(checkpoint, folder)
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 1, "do_sample": False, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip


def test_a_checkpoint_without_a_tokenizer_cannot_become_a_bundle(checkpoint: Checkpoint, folder: Path) -> None:
    (checkpoint.folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        write_companions(checkpoint, folder)


def test_generation_defaults_are_greedy_or_those_of_the_checkpoint(checkpoint: Checkpoint) -> None:
    assert generation_defaults(checkpoint) == GenerationSection(do_sample=False)
    (checkpoint.folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 1, "top_k": 40, "top_p": 0.9, "max_new_tokens": null, "x": []}'
    )
    defaults = generation_defaults(open_checkpoint(str(checkpoint.folder)))
    assert (defaults.do_sample, defaults.temperature, defaults.top_k, defaults.top_p) == (True, 1.0, 40, 0.9)
    assert defaults.max_new_tokens == GenerationSection().max_new_tokens


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not readable as JSON"),
        ("[]", "top level must be an object"),
        ('{"do_sample": true, "top_k": "40"}', "top_k = '40'"),
        ('{"do_sample": true, "temperature": NaN}', "temperature = nan"),
        ('{"max_new_tokens": 9223372036854775808}', "max_new_tokens = 9223372036854775808"),
        ('{"do_sample": 1}', "do_sample = 1"),
    ],
)
def test_a_malformed_generation_config_is_refused_by_field(checkpoint: Checkpoint, text: str, says: str) -> None:
    (checkpoint.folder / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(checkpoint.folder))
    assert caught.value.message.startswith("generation_config.json: ")
    assert says in caught.value.message


def test_facts_of_the_shipped_tokenizer() -> None:
    """It declares no bos token and prepends it all the same."""
    tiny = open_checkpoint("helium-tiny")
    section, add_bos = tokenizer_facts(tiny.tokenizer_files()[0], bos=tiny.config.bos_token_id)
    assert (section.file, section.kind, section.byte_fallback, add_bos) == (
        "tokenizer.json",
        "unigram",
        True,
        True,
    )
    assert tokenizer_facts(tiny.tokenizer_files()[0], bos=2)[1] is False
    assert tokenizer_facts(tiny.tokenizer_files()[0], bos=None)[1] is False


def test_a_tokenizer_of_more_tokens_than_rows_is_refused(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["model"]["vocab"].append(["zebra", -9.0])
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has the token id 160, config") as caught:
        check_companions(checkpoint)
    assert "the token 'zebra' (160) has no row" in caught.value.hint


def test_a_template_with_a_token_without_a_row_is_refused(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["added_tokens"].append({"id": 160, **token("<go>")})
    data["post_processor"] = template(
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    )
    data["post_processor"] |= {
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [160], "tokens": ["<go>"]}},
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"puts '<go>' \(160\) into every text") as caught:
        check_companions(checkpoint)
    assert "resize_token_embeddings" in caught.value.hint


def template(*pieces: Any) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": list(pieces),
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }


BOS, TEXT = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}


@pytest.mark.parametrize(
    ("processor", "add_bos"),
    [
        (None, False),
        (template(BOS, TEXT), True),
        (template(TEXT), False),
        (template(TEXT, BOS), False),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(BOS, TEXT)]}, True),
        ({"type": "ByteLevel"}, False),
        ({"type": "TemplateProcessing", "single": ["odd"], "special_tokens": None}, False),
    ],
)
def test_whether_bos_is_prepended_is_read_from_the_template(tmp_path: Path, processor: Any, add_bos: bool) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "BPE"}, "post_processor": processor}))
    section, found = tokenizer_facts(path, bos=1)
    assert found is add_bos
    assert (section.kind, section.byte_fallback) == ("bpe", False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 1}', '{"model": {}}', '{"model": {"type": null}}'])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        tokenizer_facts(tmp_path / "tokenizer.json", bos=1)


def test_the_genai_config_names_the_graph_as_it_is(folder: Path) -> None:
    write_genai_config(CONFIG, 32, folder, GREEDY)
    data = json.loads((folder / "genai_config.json").read_text())
    decoder = data["model"]["decoder"]
    signature = GraphSignature("any", None, CONFIG.vocab_size, CACHE, genai=True)
    names = [decoder["inputs"]["input_ids"], decoder["inputs"]["attention_mask"]]
    names += [decoder["inputs"]["past_key_names"] % 0, decoder["inputs"]["past_value_names"] % 0]
    assert names == [spec.name for spec in signature.inputs()]
    names = [decoder["outputs"]["logits"]]
    names += [decoder["outputs"]["present_key_names"] % 0, decoder["outputs"]["present_value_names"] % 0]
    assert names == [spec.name for spec in signature.outputs()]
    sizes = ("head_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")
    assert [decoder[name] for name in sizes] == [16, 64, 4, 1, 2]
    assert decoder["filename"] == "genai.onnx"
    model = data["model"]
    assert (model["type"], model["context_length"], model["vocab_size"]) == ("llama", 32, 160)
    assert (model["bos_token_id"], model["eos_token_id"], model["pad_token_id"]) == (1, 2, 3)
    # The static cache only works when it is shared and never outgrown.
    assert data["search"]["max_length"] == 32
    assert data["search"]["past_present_share_buffer"] is True


def test_several_end_tokens_and_no_pad_token(folder: Path) -> None:
    config = ModelConfig.from_dict(tiny_config(eos_token_id=[2, 7], pad_token_id=None))
    write_genai_config(config, 32, folder, GREEDY, stop=(7, 9))
    model = json.loads((folder / "genai_config.json").read_text())["model"]
    assert (model["eos_token_id"], model["pad_token_id"]) == ([2, 7, 9], 2)


def test_the_genai_config_has_the_sampling_of_the_checkpoint(folder: Path) -> None:
    def search(section: GenerationSection) -> dict[str, Any]:
        write_genai_config(CONFIG, 32, folder, section)
        written = folder / "genai_config.json"
        found: dict[str, Any] = json.loads(written.read_text())["search"]
        written.unlink()
        return found

    shaping = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3}
    found = search(GenerationSection(do_sample=True, top_k=20, max_length=24, max_new_tokens=24, **shaping))
    assert found.items() >= {"do_sample": True, "top_k": 20, "max_length": 24, **shaping}.items()
    # It refuses more than the vocabulary; 0 are all tokens to both.
    assert search(GenerationSection(do_sample=True, top_k=5000))["top_k"] == 160
    assert search(GenerationSection(do_sample=True, top_k=0))["top_k"] == 0
    greedy = search(GREEDY)
    assert (greedy["do_sample"], greedy["top_k"], greedy["max_length"]) == (False, 50, 32)


def test_what_the_genai_config_has_no_key_for_is_named() -> None:
    assert beyond_genai(GREEDY) == beyond_genai(GenerationSection(max_length=99, max_new_tokens=99)) == ()
    section = GenerationSection(min_p=0.1, suppress_tokens=(3,), stop_strings=("x",), max_new_tokens=99)
    assert beyond_genai(section) == ("min_p", "suppress_tokens", "stop_strings", "max_new_tokens")
    card = render_card(make_manifest(generation=section), CheckpointCard(), {"genai_config.json": 1})
    assert "no key for `min_p`, `suppress_tokens`, `stop_strings`, `max_new_tokens`" in card


# The model card


def front_matter(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    data: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return data


def test_the_card_of_a_local_checkpoint(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(1234))
    write_card(make_manifest(), CheckpointCard("apache-2.0", ("en", "fr")), folder)
    text = (folder / "README.md").read_text()
    assert front_matter(text) == {
        "language": ["en", "fr"], "library_name": "helium-edge", "license": "apache-2.0",
        "pipeline_tag": "text-generation", "tags": ["helium", "onnx", "on-device"],
    }  # fmt: skip
    assert "# tiny-int4\n" in text
    assert "| `weights.bin` | 1234 |" in text
    assert "1 matrices in int4-g32" in text
    assert "helium-edge generate . 'Grüße'" in text
    assert "`apache-2.0`, as the source checkpoint." in text
    assert "helium-edge parity` measures it" in text
    assert "$" not in text


def test_the_card_of_a_hub_checkpoint_without_declarations() -> None:
    source = SourceSection(checkpoint="kyutai/helium-1-preview-2b", revision="645c94758493", files={})
    text = render_card(make_manifest(source=source, golden=None), CheckpointCard(), {})
    data = front_matter(text)
    assert (data["base_model"], data["base_model_relation"]) == ("kyutai/helium-1-preview-2b", "quantized")
    assert "license" not in data
    assert "language" not in data
    assert "`kyutai/helium-1-preview-2b` at revision `645c94758493`" in text
    assert "See the source checkpoint." in text


def test_the_card_shows_the_parity_figures() -> None:
    parity = {"level": "L3", "passed": True, "tokens": 812, "mean_kld": 0.0123456789, "ppl_ratio": None,
              "languages": {"fr": {"mean_kld": 0.02}}, "counts": {"windows": 3}}  # fmt: skip
    text = render_card(make_manifest(parity=parity), CheckpointCard(), {})
    assert "| | mean_kld | tokens |" in text
    assert "| overall | 0.0123457 | 812 |" in text
    assert "| fr | 0.02 |  |" in text
    assert "windows" not in text


def test_the_card_tells_of_onnxruntime_genai_where_the_bundle_serves_it() -> None:
    assert "onnxruntime-genai" not in render_card(make_manifest(), CheckpointCard(), {})
    assert "onnxruntime_genai.Model" in render_card(make_manifest(), CheckpointCard(), {"genai_config.json": 1})


def test_a_prompt_with_quotes_is_quoted_for_the_shell() -> None:
    golden = make_manifest().golden
    assert golden is not None
    golden = golden.model_copy(update={"prompt": 'it\'s "$HOME"'})
    text = render_card(make_manifest(golden=golden), CheckpointCard(), {})
    assert """helium-edge generate . 'it'"'"'s "$HOME"' --max""" in text


@pytest.mark.parametrize(
    ("task", "pipeline", "command"),
    [
        ("hidden_states", "feature-extraction", ""),
        ("sequence_classification", "text-classification", 'helium-edge classify . "Hello"'),
        ("token_classification", "token-classification", 'helium-edge classify . "Hello"'),
    ],
)
def test_the_card_tells_how_each_task_is_run(task: Any, pipeline: str, command: str) -> None:
    output = OutputSection(kind=task, labels=("a",) if command else (), problem_type=None)
    text = render_card(make_manifest(head=output, cache=None, golden=None), CheckpointCard(), {})
    assert f"pipeline_tag: {pipeline}\n" in text
    assert "run the graph of phase `classify` once" in text
    assert command in text
    assert "generate ." not in text
    assert "allocate the cache" in render_card(make_manifest(), CheckpointCard(), {})


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("---\nlicense: cc-by-4.0\nlanguage: [en, de]\n---\n# x", CheckpointCard("cc-by-4.0", ("en", "de"))),
        ("---\r\nlicense: mit\r\nlanguage: fr\r\n---\r\n# x", CheckpointCard("mit", ("fr",))),
        ("---\nlicense: [a, b]\n---\n", CheckpointCard("a")),
        ("# no front matter", CheckpointCard()),
        ("---\n: : :\n---\n", CheckpointCard()),
        ("---\n- a\n---\n", CheckpointCard()),
        ("---\nlicense: {a: b}\nlanguage: [en, 7, 'x y', \"a\\nb: c\"]\n---\n", CheckpointCard(None, ("en",))),
        ("---\nlicense: !!python/object/apply:os.system [ls]\n---\n", CheckpointCard()),
        ("", CheckpointCard()),
    ],
)
def test_what_a_checkpoint_declares(tmp_path: Path, text: str, card: CheckpointCard) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_checkpoint_card(tmp_path) == card


def test_a_checkpoint_without_a_readme(tmp_path: Path) -> None:
    assert read_checkpoint_card(tmp_path) == CheckpointCard()
    (tmp_path / "README.md").mkdir()
    assert read_checkpoint_card(tmp_path) == CheckpointCard()


def test_the_shipped_checkpoint_declares_both() -> None:
    card = read_checkpoint_card(open_checkpoint("helium-tiny").folder)
    assert card == CheckpointCard("apache-2.0", ("en", "fr", "de", "it", "pt", "es"))


def test_every_placeholder_of_the_card_is_filled_with_an_append_cache() -> None:
    entry = GraphEntry.from_signature("decoder.onnx", GraphSignature("any", None, 160, CACHE))
    text = render_card(make_manifest(graphs=[entry]), CheckpointCard(), {"weights.bin": 1})
    assert "graphs of phase any over one set" in text
