"""Class 3, config.json; class 4, tokenizer and generation defaults."""

from __future__ import annotations

import json
from typing import Any

from tests.hostile.case import CATALOGUE, CONFIG, INPUT, OK, TOKENIZER, USAGE, Sandbox

CONFIGS = "3. config.json"
TOKENS = "4. Tokenizer and generation defaults"
add = CATALOGUE.add


# -- class 3


def _config(what: str, changes: dict[str, Any], *says: str, code: int = INPUT, note: str = "") -> None:
    @add(CONFIGS, what, *(says if code == OK else (CONFIG, *(says or tuple(changes)))), code=code, note=note)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.edit(CONFIG, lambda data: data.update(changes))


def _config_text(what: str, content: bytes, *says: str) -> None:
    @add(CONFIGS, what, CONFIG, *says)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.write(CONFIG, content)


_config_text("empty file", b"", "not readable as JSON")
_config_text("cut", b'{"model_type": "hel', "not readable as JSON")
_config_text("not UTF-8", b'{"model_type": "\xff"}', "not readable as JSON")
_config_text("100,000 lists deep", b"[" * 100_000, "not readable as JSON")
_config_text("a number of 5,000 digits", b'{"vocab_size": ' + b"9" * 5000 + b"}", "not readable as JSON")
_config_text("a list", b"[]", "must be an object")
_config_text("2 MiB", b" " * (2 << 20), "too many")
_config_text("a key given twice", b'{"model_type": "helium", "model_type": "x"}', "model_type", "stands twice")
_config_text("an empty object", b"{}", "model_type")


@add(CONFIGS, "absent", CONFIG, "no such file")
def _no_config(box: Sandbox) -> None:
    (box.checkpoint() / CONFIG).unlink()


@add(CONFIGS, "every key absent that has a default", "wrong shape")
def _defaults(box: Sandbox) -> None:
    box.checkpoint()
    box.write(CONFIG, {"model_type": "helium", "num_hidden_layers": 2})


_config("unknown keys", {"use_cache": True, "x": {"y": [1]}}, code=OK, note="they are ignored")
_config("numbers that are no JSON in an unknown key", {"x": float("inf")}, code=OK, note="they are ignored")
for _field in (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
):
    for _value in (
        (0, -1, 2**31, 2**63, "24", True, 2.5, [], float("nan")) if _field == "hidden_size" else (0, 2**63)
    ):
        _config(f"{_field} = {json.dumps(_value)}", {_field: _value})
for _field in ("rms_norm_eps", "rope_theta"):
    for _value in (0, -1e-5, "1", True, float("nan"), float("inf"), None, 10**400)[
        :: 1 if _field == "rope_theta" else 3
    ]:
        _shown = json.dumps(_value)
        _config(f"{_field} = {_shown if len(_shown) < 20 else '10^400'}", {_field: _value})
for _field in ("attention_bias", "mlp_bias", "tie_word_embeddings"):
    for _value in (1, "true", None):
        _config(f"{_field} = {json.dumps(_value)}", {_field: _value})
_config("max_position_embeddings = 10^12", {"max_position_embeddings": 10**12})
_config("heads * head_dim is not hidden_size", {"head_dim": 8}, "num_attention_heads * head_dim", "hidden_size")
_config("key-value heads do not divide the heads", {"num_key_value_heads": 3}, "num_key_value_heads = 3")
_config("more key-value heads than heads", {"num_key_value_heads": 8}, "num_key_value_heads = 8")
_config("an odd head_dim", {"hidden_size": 60, "head_dim": 15}, "head_dim = 15")
_config("vocab_size is not that of the embedding", {"vocab_size": 161}, "vocab_size", "wrong shape")
_config("more layers than the file", {"num_hidden_layers": 3}, "missing", "num_hidden_layers = 3")
_config("fewer layers than the file", {"num_hidden_layers": 1}, "unexpected", "num_hidden_layers = 1")
_config("millions of layers", {"num_hidden_layers": 1 << 24}, "num_hidden_layers")
_config("attention_bias without biases", {"attention_bias": True}, "missing", "attention_bias = true")
_config("mlp_bias without biases", {"mlp_bias": True}, "missing", "mlp_bias = true")
_config("tied though the head is its own", {"tie_word_embeddings": True}, "differs from")
_config(
    "rope_parameters of 5.x that agree", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, code=OK
)
_config("rope_parameters that contradict rope_theta", {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta")
_config("rope_parameters of another type", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e5}})
_config("rope_parameters that are a list", {"rope_parameters": [1]})
_config("rope_scaling that scales", {"rope_scaling": {"type": "linear", "factor": 2.0}})
_config("rope_scaling of the default type", {"rope_scaling": {"rope_type": "default"}}, code=OK)
_config("an activation that no graph has", {"hidden_act": "quick_gelu"})
_config("an activation that is a list", {"hidden_act": ["silu"]})
_config("another model_type", {"model_type": "gpt2"})
_config("model_type is a list", {"model_type": ["helium"]})
_config("another architecture", {"architectures": ["GPT2LMHeadModel"]})
_config("two architectures", {"architectures": ["HeliumForCausalLM", "HeliumForCausalLM"]})
_config(
    "auto_map: remote code",
    {"auto_map": {"AutoModel": "evil.Model"}},
    code=OK,
    note="the code is never run, and a warning says so",
)
_config(
    "trust_remote_code in the file",
    {"trust_remote_code": True},
    code=OK,
    note="there is nothing that it could switch on",
)
_config("quantization_config", {"quantization_config": {"quant_method": "gptq"}})
_config("several end tokens", {"eos_token_id": [2, 5, 6]}, code=OK)
_config("an end token outside the vocabulary", {"eos_token_id": [2, 160]})
_config("pad_token_id outside the vocabulary", {"pad_token_id": 160})
_config("bos_token_id = -2", {"bos_token_id": -2})
_config("pad_token_id = -1", {"pad_token_id": -1}, code=OK, note="there is then no such token")
_config("architectures is an empty list", {"architectures": []}, code=OK, note="the tensors tell the class")
_config("a linear rope_scaling by 1", {"rope_scaling": {"type": "linear", "factor": 1}}, code=OK)
_config("rope_scaling by NaN", {"rope_scaling": {"type": "linear", "factor": float("nan")}})
_config("no bos, eos or pad", {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}, code=OK)


@add(CONFIGS, "no pad_token_id, whose default lies outside a tiny vocabulary", CONFIG, "pad_token_id = 3")
def _small_vocab(box: Sandbox) -> None:
    box.checkpoint()
    box.edit(CONFIG, lambda data: (data.pop("pad_token_id"), data.update(vocab_size=3, eos_token_id=2)))


@add(CONFIGS, "as transformers 5 writes it", code=OK)
def _spelling(box: Sandbox) -> None:
    box.checkpoint(spelling="5.x")


@add(CONFIGS, "K that no group size of the recipe divides", "down_proj", "K = 80", code=USAGE)
def _indivisible(box: Sandbox) -> list[str]:
    box.checkpoint(intermediate_size=80)
    return box.export(recipe="onnx-int4")


@add(CONFIGS, "biases and one key-value head", code=OK)
def _biases(box: Sandbox) -> None:
    box.checkpoint(attention_bias=True, mlp_bias=True, num_key_value_heads=1)


# -- class 4


def _tokenizer(what: str, change: Any, *says: str, code: int = INPUT, note: str = "") -> None:
    @add(TOKENS, what, *(says if code == OK else (TOKENIZER, *says)), code=code, note=note)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        if callable(change):
            box.edit(TOKENIZER, change)
        else:
            box.write(TOKENIZER, change)


def _many_vocab(count: int) -> Any:
    return lambda data: data["model"].update(vocab=[[f"t{i}", -1.0] for i in range(count)])


def _added(token_id: int) -> Any:
    token = {
        "id": token_id,
        "content": "<new>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return lambda data: data["added_tokens"].append(token)


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _bpe(vocab: dict[str, int], merges: list[list[str]]) -> Any:
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": False, "unk_token": "a"}
    return lambda data: data.update(model=model, added_tokens=[], post_processor=None)


@add(TOKENS, "tokenizer.json is absent", TOKENIZER, "no such file")
def _no_tokenizer(box: Sandbox) -> None:
    box.checkpoint(tokenizer=False)


_tokenizer("empty file", b"", "not readable as JSON")
_tokenizer("bad JSON", b'{"model": ', "not readable as JSON")
_tokenizer("not UTF-8", b'"\xff"', "not readable as JSON")
_tokenizer("100,000 lists deep", b"[" * 100_000, "not readable as JSON")
_tokenizer("500 objects deep", ('{"a":' * 500 + "1" + "}" * 500).encode())
_tokenizer("100 MB", b" " * (100 << 20), "too many")
_tokenizer("16 MB of small lists", b'{"x":[' + b"[]," * ((1 << 24) // 3 - 10) + b"1]}", "too many")
_tokenizer("a list", b"[]", "no object")
_tokenizer("an empty object", b"{}")
_tokenizer("a model that is unknown", lambda data: data["model"].update(type="Magic"), "not a usable")
_tokenizer("a vocabulary with a NaN score", lambda data: data["model"]["vocab"].append(["x", float("nan")]))
_tokenizer("an empty vocabulary", _many_vocab(0))
_tokenizer("an unk_id beyond the vocabulary", lambda data: data["model"].update(unk_id=10**6), "not a usable")
_tokenizer("more tokens than vocab_size", _many_vocab(200), "token id", "vocab_size = 160")
_tokenizer(
    "fewer tokens than vocab_size",
    lambda data: data["model"].update(vocab=data["model"]["vocab"][:100]),
    code=OK,
    note="ids without a token have no text",
)
_tokenizer(
    "an added token beyond vocab_size",
    _added(10**6),
    code=OK,
    note="the manifest forbids its id, and texts that hold it are refused",
)
_tokenizer("ids with a gap", _bpe({"a": 0, "b": 1, "c": 50}, []), code=OK)
_tokenizer("an id of 2^40", _bpe({"a": 0, "b": 2**40}, []), "not a usable")
_tokenizer("merges of tokens that are not there", _bpe({"a": 0, "b": 1}, [["a", "zz"]]), "not a usable")
_tokenizer("a million merges", lambda data: _bpe({"a": 0, "b": 1}, [["a", "b"]] * 1_000_000)(data))
_tokenizer(
    "a regular expression that backtracks forever",
    lambda data: data.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(e+)+$"}, "behavior": "Isolated", "invert": False}
    ),
    code=OK,
    note="it is given up where it takes long on a text",
)
_tokenizer(
    "a regular expression that repeats 10^12 times",
    lambda data: data.update(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "((a{1,10000}){1,10000}){10000}"},
            "behavior": "Isolated",
            "invert": False,
        }
    ),
    "repeats 1e+12 times",
)
_tokenizer(
    "replacements that make 10^15 characters of one",
    lambda data: data.update(normalizer={"type": "Sequence", "normalizers": [_replace("a", "a" * 1000)] * 5}),
    "times as long",
)
_tokenizer(
    "a charsmap that makes the library panic",
    lambda data: data.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "not a usable",
)
_tokenizer(
    "a template with an unknown token",
    lambda data: data["post_processor"].update(special_tokens={}),
    "not a usable",
)
_tokenizer(
    "a template whose ids are no list",
    lambda data: data["post_processor"]["special_tokens"]["<s>"].update(ids=1),
    "not a usable",
)
_tokenizer(
    "a decoder that cannot be streamed",
    lambda data: data.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "WordPiece",
)
_tokenizer(
    "padding to 2^40 tokens",
    lambda data: data["padding"].update(strategy={"Fixed": 2**40}),
    code=OK,
    note="padding is switched off",
)
_tokenizer("added tokens that are no list", lambda data: data.update(added_tokens=-1), "expected a sequence")
_tokenizer("no special tokens at all", lambda data: data.update(added_tokens=[]), code=OK)
_tokenizer("bos_token undeclared yet prepended", lambda data: None, code=OK, note="as the released model has it")


@add(TOKENS, "generation_config.json is absent", code=OK, note="one is written")
def _no_generation(box: Sandbox) -> None:
    box.checkpoint()


def _generation(what: str, content: Any, *says: str, code: int = INPUT) -> None:
    @add(
        TOKENS,
        f"generation_config.json: {what}",
        *(says if code == OK else ("generation_config.json", *says)),
        code=code,
    )
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.write("generation_config.json", content)


_generation("sound", {"do_sample": True, "temperature": 0.7, "top_k": 40}, code=OK)
_generation("bad JSON", b"{", "not readable as JSON")
_generation("a list", [], "must be an object")
_generation("2 MiB", b" " * (2 << 20), "too many")
_generation("top_p = 1.5", {"do_sample": True, "top_p": 1.5}, code=OK)
_generation("top_k = -1 and temperature = 0", {"do_sample": True, "top_k": -1, "temperature": 0}, code=OK)
_generation("temperature = NaN", {"do_sample": True, "temperature": float("nan")}, "temperature = nan")
_generation("a million suppressed tokens", {"suppress_tokens": [1] * 190_000}, "suppress_tokens")
_generation("stop ids as text", {"eos_token_id": "2"}, "eos_token_id")


def _token_file(what: str, name: str, content: Any, *says: str, code: int = INPUT, note: str = "") -> None:
    @add(TOKENS, f"{name}: {what}", *(says if code == OK else (name, *says)), code=code, note=note)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.write(name, content)


_token_file("bad JSON", "tokenizer_config.json", b"{", "not readable as JSON")
_token_file("a list", "tokenizer_config.json", [], "must be an object")
_token_file(
    "a token that is a number", "tokenizer_config.json", {"extra_special_tokens": [3]}, "extra_special_tokens"
)
_token_file("an id of 2^40", "added_tokens.json", {"<x>": 1 << 40}, "'<x>' has no token id")
_token_file("bad JSON", "added_tokens.json", b"[", "not readable as JSON")
_token_file("saved with a byte order mark", "added_tokens.json", b"\xef\xbb\xbf{}", "byte order mark")
_token_file(
    "a token without a row",
    "added_tokens.json",
    {"<x>": 160},
    code=OK,
    note="the manifest forbids its id, and texts that hold it are refused",
)


@add(CONFIGS, "saved with a byte order mark", CONFIG, "byte order mark")
def _marked(box: Sandbox) -> None:
    path = box.checkpoint() / CONFIG
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@add(TOKENS, "an adapter beside the weights", "adapter_config.json", "an adapter lies beside the weights")
def _adapter(box: Sandbox) -> None:
    box.checkpoint()
    box.write("adapter_config.json", {"peft_type": "LORA"})


@add(TOKENS, "an adapter and no weights", "is an adapter of x/y, not a model")
def _adapter_alone(box: Sandbox) -> None:
    (box.checkpoint() / "model.safetensors").unlink()
    box.write("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "x/y"})


_generation("max_new_tokens = 2^63", {"max_new_tokens": 2**63}, "max_new_tokens")


@add(TOKENS, "tokenizer_config.json of 32 MiB", "tokenizer_config.json", "too many")
def _large_companion(box: Sandbox) -> None:
    box.checkpoint()
    with box.write("tokenizer_config.json", b"").open("r+b") as file:
        file.truncate(32 << 20)


def _readme(what: str, front: str) -> None:
    @add(TOKENS, f"README.md: {what}", code=OK, note="it is then taken for one that declares nothing")
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.write("README.md", f"---\n{front}\n---\ntext")


_readme(
    "front matter with an alias bomb",
    "a: &a [x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)}]\n" for i in range(20)),
)
_readme(
    "front matter with a merge bomb",
    "a: &a {k: v}\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{','.join([f'*{chr(97 + i)}'] * 9)}]}}\n" for i in range(9)),
)
_readme("front matter that makes an object", "license: !!python/object/apply:os.system ['touch pwned']")
_readme("front matter of 900 kB", "x: 1\n" * 180_000)


@add(
    TOKENS,
    "README.md: a link to an endless device",
    code=OK,
    note="it is then taken for one that declares nothing",
)
def _readme_device(box: Sandbox) -> None:
    box.checkpoint()
    (box.model / "README.md").symlink_to("/dev/zero")
