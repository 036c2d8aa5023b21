"""Checkpoints as fine-tunes are really saved, from the folder to a bundle that runs."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import helium_edge
from helium_edge.checkpoint import ReadOptions
from helium_edge.errors import CheckpointError, UsageError
from helium_edge.exporting import ExportRequest, ExportResult, export_all
from helium_edge.generation import LanguageModel
from tests.helpers.added_tokens import TINY, TURNS, texts_with, token
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config, write_weights
from tests.helpers.exports import small_recipe

Weights = dict[str, torch.Tensor]
PROMPT = "The sensor"


def tiny_copy(folder: Path, **files: Any) -> Path:
    """helium-tiny with other files, named with underscores; a dict is laid over what the file holds."""
    shutil.copytree(TINY, folder)
    for name, changes in files.items():
        path = folder / f"{name}.json"
        data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(data | changes, ensure_ascii=False), encoding="utf-8")
    return folder


def exported(folder: Path, out: Path, *, recipe: str = "onnx-fp32", **options: Any) -> ExportResult:
    request = {"parity": False, "run": False} | options
    (result,) = export_all(ExportRequest(str(folder), small_recipe(recipe), out, **request))
    return result


def greedy(folder: Path, tokens: int) -> list[int]:
    """What `generate` of transformers makes of the prompt, by the folder's own generation config."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ids = torch.tensor([tokenizer(PROMPT).input_ids])
        with torch.no_grad():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens)
    return [int(index) for index in found[0, ids.shape[1] :]]


def test_generation_stops_where_transformers_stops(tmp_path: Path) -> None:
    plain = greedy(tiny_copy(tmp_path / "plain"), 24)
    stop = next(index for at, index in enumerate(plain) if at >= 3 and index not in plain[:at])
    folder = tiny_copy(tmp_path / "model", generation_config={"eos_token_id": [2, stop]})
    theirs = greedy(folder, 24)
    assert theirs[-1] == stop
    result = exported(folder, tmp_path / "bundle", recipe="onnx-fp32", run=True)
    assert result.manifest.tokens.eos == (2, stop)
    genai = json.loads((result.bundle / "genai_config.json").read_text())
    assert genai["model"]["eos_token_id"] == [2, stop]
    with helium_edge.load(result.bundle) as model:
        assert isinstance(model, LanguageModel)
        found = model.stream(PROMPT, max_new_tokens=24)
        list(found)
    assert [*found.ids, stop] == theirs
    assert found.stats.stop_reason == "eos"


def test_the_golden_trace_ends_at_any_stop_id(tmp_path: Path) -> None:
    golden = exported(tiny_copy(tmp_path / "plain"), tmp_path / "a", run=True).manifest.golden
    assert golden is not None
    everything = {"eos_token_id": list(range(4096))}
    folder = tiny_copy(tmp_path / "model", generation_config=everything)
    other = exported(folder, tmp_path / "b", run=True).manifest.golden
    assert other is not None
    assert len(golden.greedy_ids) == 32
    assert len(other.greedy_ids) == 1


def shards(folder: Path) -> None:
    """Two shards, of which the index says a wrong size, and one of another save that it does not list."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    listing = {name: file for file, part in files.items() for name in part}
    index = {"metadata": {"total_size": 1}, "weight_map": listing}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"x": torch.zeros(2)}, folder / "model-00001-of-00009.safetensors", metadata={"format": "pt"})


def leftovers(folder: Path) -> None:
    """What trainers and other engines leave beside a model."""
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", "chat_template.json"):
        (folder / name).write_text("{}")
    save_file({"x": torch.zeros(2)}, folder / "consolidated.safetensors")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    save_file(weights, folder / "model.safetensors")


def truncating(folder: Path) -> None:
    """A tokenizer.json that was saved while it cut texts to 3 tokens."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


Files = dict[str, dict[str, Any]]
ORDINARY: dict[str, tuple[Files, Callable[[Path], Any] | None]] = {
    "a list of stop ids over one": ({"generation_config": {"eos_token_id": [283, 2]}}, None),
    "dtype over torch_dtype": ({"config": {"dtype": "float32", "torch_dtype": "bfloat16"}}, None),
    "a vocabulary padded to 64": ({"config": {"vocab_size": 4160}}, lambda folder: with_rows(folder, 64)),
    "settings of training": (
        {"config": {"use_cache": False, "attention_dropout": 0.1, "pretraining_tp": 1}}, None,
    ),
    "code beside it": ({"config": {"auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}}}, None),
    "sampling that is off": ({"generation_config": {"temperature": 0.6, "top_p": 0.9}}, None),
    "a generation config of the model's": (
        {"generation_config": {"_from_model_config": True, "cache_implementation": "static", "top_k": 50.0}}, None,
    ),
    "sides and lengths": (
        {"tokenizer_config": {"padding_side": "left", "truncation_side": "left", "model_max_length": 512}}, None,
    ),
    "another end in special_tokens_map": (
        {"tokenizer_config": {"eos_token": "</s>"}, "special_tokens_map": {"eos_token": "<pad>"}}, None,
    ),
    "shards": ({}, shards),
    "leftovers": ({}, leftovers),
    "truncation": ({}, truncating),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_folder_says_what_it_says_in_transformers(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    files, change = ORDINARY[name]
    folder = tiny_copy(tmp_path / "model", **files)
    if change is not None:
        change(folder)
    with helium_edge.load(exported(folder, tmp_path / "bundle").bundle) as model:
        assert isinstance(model, LanguageModel)
        found = model.stream(PROMPT, max_new_tokens=12, temperature=0)
        list(found)
        ended = [*found.ids, *((found.stats.stop_reason == "eos") * [283])]
        texts = (PROMPT, "x</s> <pad> y", "The sensor reads 12 degrees\n")
        ours = [model.ids(text) for text in texts]
    assert ended == greedy(folder, 12)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert ours == [theirs(text, truncation=False).input_ids for text in texts]


def with_rows(folder: Path, rows: int) -> Path:
    """helium-tiny whose embedding and head have some rows more."""
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], weights[name].mean(0, keepdim=True).repeat(rows, 1)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_bundle_of_a_fine_tune_has_one_tokenizer_with_its_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    decoder = {str(4096 + at): token(content) for at, content in enumerate(TURNS)}
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|im_end|>"}
    folder = with_rows(tiny_copy(tmp_path / "model", config={"vocab_size": 4098}, tokenizer_config=settings), 2)
    result = exported(folder, tmp_path / "bundle")
    assert set(result.manifest.tokenizer.merged_from) == {"tokenizer.json", "tokenizer_config.json"}
    assert result.manifest.tokens.forbidden == ()
    assert any("<|im_start|> (4096), <|im_end|> (4097)" in line for line in result.notes)
    assert any(
        "eos_token <|im_end|> (4097) is not among the ids that end generation (2)" in w for w in result.warnings
    )
    assert "is merged from `tokenizer.json`, `tokenizer_config.json`" in (result.bundle / "README.md").read_text()
    theirs = AutoTokenizer.from_pretrained(folder)
    with helium_edge.load(result.bundle) as model:
        for text in texts_with(TURNS, 100, seed=3):
            assert model.ids(text) == theirs(text).input_ids


def test_a_token_without_a_row_is_named_and_refused_in_texts(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model", added_tokens={"[PAD]": 4096})
    result = exported(folder, tmp_path / "bundle")
    assert result.manifest.tokens.forbidden == (4096,)
    assert result.warnings == (
        "tokenizer.json: no row of the embedding (4096 rows) for [PAD] (4096); texts that hold it are refused",
    )
    assert "(4096): a text that holds one is refused" in (result.bundle / "README.md").read_text()
    with helium_edge.load(result.bundle) as model:
        assert model.ids("Edge AI")
        with pytest.raises(UsageError, match=r"holds the token \[PAD\] \(4096\), for which the model has no row"):
            model.ids("Edge [PAD] AI")


def renamed(change: Callable[[str], str]) -> Callable[[Weights], Weights]:
    return lambda weights: {change(name): tensor for name, tensor in weights.items()}


def tied_head_only(weights: Weights) -> Weights:
    return {"lm_head.weight": weights.pop("model.embed_tokens.weight"), **weights}


SAVED: dict[str, tuple[Callable[[Weights], Weights], dict[str, Any], dict[str, Any]]] = {
    "without model.": (renamed(lambda name: name.removeprefix("model.")), {}, {}),
    "the head of a tied pair": (tied_head_only, {"tie_word_embeddings": True}, {}),
    "compiled": (renamed(lambda name: f"_orig_mod.{name}"), {}, {}),
    "with a value head": (lambda weights: weights | {"v_head.summary.weight": torch.ones(1, 64)}, {}, {}),
    "no architecture": (dict, {}, {"architectures": []}),
    "an architecture of peft": (dict, {}, {"architectures": ["PeftModelForCausalLM"]}),
    "no padding": (dict, {}, {"pad_token_id": -1}),
    "a factor of one": (dict, {}, {"rope_scaling": {"type": "linear", "factor": 1.0}}),
}


@pytest.mark.parametrize("name", SAVED)
def test_the_graphs_are_those_of_the_plain_checkpoint(tmp_path: Path, name: str) -> None:
    change, config, saved = SAVED[name]
    plain = exported(make_checkpoint(tmp_path / "plain", **config), tmp_path / "a")
    folder = make_checkpoint(tmp_path / "odd", **config)
    write_weights(folder, change(random_weights(tiny_config(**config))))
    (folder / "config.json").write_text(json.dumps(tiny_config(**config) | saved))
    odd = exported(folder, tmp_path / "b", parity=name in ("compiled", "the head of a tied pair"), run=True)
    for file in ("weights.bin", "decoder.onnx", "decode.onnx", "prefill.onnx"):
        assert (odd.bundle / file).read_bytes() == (plain.bundle / file).read_bytes(), file


def with_adapter(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for layer in range(2):
        for kind, rows in (("q", 64), ("v", 32)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{kind}_proj"
            factors[f"{prefix}.lora_A.weight"] = torch.randn(4, 64, generator=generator) * 0.2
            factors[f"{prefix}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) * 0.2
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def test_a_merged_adapter_holds_against_base_and_adapter(tmp_path: Path) -> None:
    folder = with_adapter(make_checkpoint(tmp_path / "model"))
    reading = ReadOptions(merge_adapter=True)
    result = exported(folder, tmp_path / "bundle", parity=True, run=True, reading=reading)
    assert result.parity is not None
    assert result.parity.passed
    report = helium_edge.check(result.bundle, checkpoint=str(folder), tokens=60)
    assert report.passed
    base = exported(make_checkpoint(tmp_path / "base"), tmp_path / "other")
    assert (base.bundle / "weights.bin").read_bytes() != (result.bundle / "weights.bin").read_bytes()


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_refused_leaves_nothing_behind(tmp_path: Path, strict: bool) -> None:
    folder = (
        make_checkpoint(tmp_path / "model", pad_token_id=-1)
        if strict
        else with_adapter(make_checkpoint(tmp_path / "model"))
    )
    with pytest.raises(CheckpointError) as caught:
        exported(folder, tmp_path / "bundle", strict=strict)
    assert ("--strict" if strict else "--merge-adapter") in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_what_no_host_does_stands_in_warning_manifest_and_card(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model", generation_config={"num_beams": 4})
    result = exported(folder, tmp_path / "bundle")
    assert result.manifest.generation.unsupported == ("num_beams",)
    assert any("num_beams = 4" in line for line in result.warnings)
    assert "`num_beams` are implemented by no host" in (result.bundle / "README.md").read_text()
