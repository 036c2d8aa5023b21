"""generation_config.json against config.json, and as transformers applies it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from helium_edge.bundle import GenerationSection
from helium_edge.checkpoint import Checkpoint, ReadOptions, open_checkpoint
from helium_edge.errors import CheckpointError, UsageError
from tests.helpers.checkpoints import make_checkpoint

MAJOR = int(transformers.__version__.partition(".")[0])


def opened(folder: Path, data: dict[str, Any] | None, **config: Any) -> Checkpoint:
    make_checkpoint(folder, **config)
    if data is not None:
        (folder / "generation_config.json").write_text(json.dumps(data), encoding="utf-8")
    return open_checkpoint(str(folder))


def section(checkpoint: Checkpoint) -> GenerationSection:
    return GenerationSection.from_file(checkpoint.generation)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected", "said"),
    [
        (2, [2, 7], (2, 7), False),
        (2, 2, (2,), False),
        (2, 7, (2, 7), True),
        ([2, 5], [7, 5], (2, 5, 7), True),
        (None, [7], (7,), False),
        (2, None, (2,), True),
        (2, [7, 7, 160, -1], (2, 7), True),
        (-1, 7, (7,), True),
    ],
)
def test_every_stop_id_of_both_files(
    tmp_path: Path, ours: Any, theirs: Any, expected: tuple[int, ...], said: bool
) -> None:
    checkpoint = opened(tmp_path, {"eos_token_id": theirs}, eos_token_id=ours)
    assert checkpoint.config.eos_token_ids == expected
    assert bool(checkpoint.warnings) == said


def test_other_ids_are_those_of_the_generation_config(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"bos_token_id": 5, "pad_token_id": 0})
    assert (checkpoint.config.bos_token_id, checkpoint.config.pad_token_id) == (5, 0)
    assert checkpoint.warnings == (
        "generation_config.json: bos_token_id = 5 is taken, as by transformers; config.json says 1",
        "generation_config.json: pad_token_id = 0 is taken, as by transformers; config.json says 3",
    )


def test_a_classifier_is_padded_as_its_config_says(tmp_path: Path) -> None:
    kind = {"architectures": ["HeliumForSequenceClassification"]}
    checkpoint = opened(tmp_path, {"eos_token_id": [2, 9], "pad_token_id": 0}, **kind)
    assert (checkpoint.config.pad_token_id, checkpoint.config.eos_token_ids) == (3, (2,))


def test_an_id_without_a_row_is_left_out_and_named(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"eos_token_id": [2, 160], "pad_token_id": 160})
    assert (checkpoint.config.eos_token_ids, checkpoint.config.pad_token_id) == ((2,), 3)
    assert sum("outside the 160 rows" in line for line in checkpoint.warnings) == 2


def test_without_a_file_generation_is_greedy(tmp_path: Path) -> None:
    assert section(opened(tmp_path, None)) == GenerationSection()
    assert section(opened(tmp_path, {"temperature": 0.6, "top_k": 40})) == GenerationSection()


def test_settings_of_an_older_config_count_where_there_is_no_file(tmp_path: Path) -> None:
    older = {"do_sample": True, "temperature": 0.5, "num_beams": 2, "max_length": 20}
    checkpoint = opened(tmp_path / "a", None, **older)
    assert section(checkpoint) == GenerationSection(
        do_sample=True, temperature=0.5, top_k=50, unsupported=("num_beams",)
    )
    (line,) = checkpoint.warnings
    assert line.startswith("config.json: num_beams = 2: not implemented by any host")
    checkpoint = opened(tmp_path / "b", {"eos_token_id": 2}, **older)
    assert (section(checkpoint), checkpoint.warnings) == (GenerationSection(), ())


def test_sampling_is_as_transformers_applies_it(tmp_path: Path) -> None:
    found = section(opened(tmp_path, {
        "do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3,
        "max_length": 64, "min_p": 0.05, "suppress_tokens": [9, 4, 9, -1], "stop_strings": "STOP",
    }))  # fmt: skip
    assert found == GenerationSection(
        do_sample=True, temperature=0.6, top_k=50, top_p=0.9, min_p=0.05, repetition_penalty=1.3,
        no_repeat_ngram_size=3, suppress_tokens=(4, 9), stop_strings=("STOP",), max_length=64, max_new_tokens=64,
    )  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        {"do_sample": True},
        {"do_sample": True, "top_k": 0},
        pytest.param(
            {"do_sample": True, "top_k": None, "temperature": None, "top_p": None},
            marks=pytest.mark.skipif(MAJOR < 5, reason="transformers 4 takes null for no limit"),
        ),
        {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "repetition_penalty": 1.3,
            "no_repeat_ngram_size": 3,
        },
        {"do_sample": True, "min_p": 0.1, "top_k": 7, "suppress_tokens": [4, 9]},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
        {"do_sample": True, "top_p": 1.0, "repetition_penalty": 1.0, "min_p": 0.0},
    ],
    ids=str,
)
def test_the_processors_of_transformers_have_the_same_values(tmp_path: Path, data: dict[str, Any]) -> None:
    """What `generate` would build for the folder, by the values inside its processors."""
    from transformers import AutoModelForCausalLM
    from transformers.generation.logits_process import LogitsProcessorList

    found = section(opened(tmp_path, data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
        config, _ = model._prepare_generation_config(None)
        model._prepare_special_tokens(config, device="cpu")
        built = model._get_logits_processor(
            generation_config=config, input_ids_seq_length=3, encoder_input_ids=torch.zeros(1, 3).long(),
            prefix_allowed_tokens_fn=None, logits_processor=LogitsProcessorList(), device="cpu",
        )  # fmt: skip
    theirs = {type(each).__name__: vars(each) for each in built}
    expected = {
        "RepetitionPenaltyLogitsProcessor": found.repetition_penalty != 1,
        "NoRepeatNGramLogitsProcessor": found.no_repeat_ngram_size > 0,
        "SuppressTokensLogitsProcessor": bool(found.suppress_tokens),
        "TemperatureLogitsWarper": found.do_sample and found.temperature != 1,
        "TopKLogitsWarper": found.do_sample and found.top_k > 0,
        "TopPLogitsWarper": found.do_sample and found.top_p < 1,
        "MinPLogitsWarper": found.do_sample and found.min_p > 0,
    }
    # One that keeps everything may be there or not.
    neutral = {"MinPLogitsWarper"} if data.get("min_p") == 0 else set()
    assert set(theirs) - neutral == {name for name, active in expected.items() if active}
    values = {
        "RepetitionPenaltyLogitsProcessor": ("penalty", found.repetition_penalty),
        "NoRepeatNGramLogitsProcessor": ("ngram_size", found.no_repeat_ngram_size),
        "TemperatureLogitsWarper": ("temperature", found.temperature),
        "TopKLogitsWarper": ("top_k", found.top_k),
        "TopPLogitsWarper": ("top_p", found.top_p),
        "MinPLogitsWarper": ("min_p", found.min_p),
    }
    for name, (attribute, value) in values.items():
        if name in theirs and name not in neutral:
            assert theirs[name][attribute] == value, name


@pytest.mark.parametrize(
    ("data", "expected", "says"),
    [
        ({"temperature": 0.0}, {}, "temperature = 0 samples nothing; replaced by greedy decoding"),
        ({"temperature": -1}, {}, "temperature = -1 samples nothing"),
        ({"top_k": -1}, {"do_sample": True}, "top_k = -1 is of another"),
        ({"top_p": 0.0}, {}, "top_p = 0 is outside (0, 1]; the most likely token alone"),
        ({"top_p": 1.5}, {"do_sample": True, "top_k": 50}, "top_p = 1.5 is outside (0, 1]; replaced by 1"),
        ({"min_p": 2}, {"do_sample": True, "top_k": 50}, "min_p = 2 is outside [0, 1]"),
        ({"repetition_penalty": 0}, {"do_sample": True, "top_k": 50}, "repetition_penalty = 0 is no penalty"),
        ({"no_repeat_ngram_size": -1}, {"do_sample": True, "top_k": 50}, "no_repeat_ngram_size = -1"),
        ({"max_new_tokens": 0}, {"do_sample": True, "top_k": 50}, "max_new_tokens = 0 is no number of tokens"),
        ({"stop_strings": ["", "x"]}, {"do_sample": True, "top_k": 50, "stop_strings": ("x",)}, "an empty text"),
        ({"presence_penalty": 0.5}, {"do_sample": True, "top_k": 50}, "presence_penalty: of another engine"),
    ],
)  # fmt: skip
def test_values_that_mean_nothing_are_replaced_and_told(
    tmp_path: Path, data: dict[str, Any], expected: dict[str, Any], says: str
) -> None:
    checkpoint = opened(tmp_path, {"do_sample": True} | data)
    assert section(checkpoint) == GenerationSection(**expected)
    (line,) = checkpoint.warnings
    assert line.startswith("generation_config.json: ")
    assert says in line


def test_max_new_tokens_wins_over_max_length(tmp_path: Path) -> None:
    found = section(opened(tmp_path, {"max_length": 64, "max_new_tokens": 9}))
    assert (found.max_new_tokens, found.max_length) == (9, None)


def test_what_no_host_does_is_named(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"num_beams": 4, "typical_p": 0.9, "guidance_scale": 1, "min_length": 0, "x": 3})
    assert section(checkpoint).unsupported == ("num_beams", "typical_p")
    (line,) = checkpoint.warnings
    assert "num_beams = 4, typical_p = 0.9: not implemented by any host" in line


def test_every_setting_of_transformers_is_known() -> None:
    """A setting that a newer version brings must be looked at."""
    from transformers import GenerationConfig

    from helium_edge.checkpoint import sampling_values

    known = {*sampling_values._UNSUPPORTED, *sampling_values.TOKEN_IDS, *GenerationSection.model_fields}
    without_effect = {
        "early_stopping", "length_penalty", "use_cache", "cache_implementation", "cache_config", "max_cache_len",
        "renormalize_logits", "remove_invalid_values", "output_attentions", "output_hidden_states",
        "output_scores", "output_logits", "return_dict_in_generate", "decoder_start_token_id", "is_assistant",
        "num_assistant_tokens", "return_legacy_cache",
        "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prompt_lookup_num_tokens",
        "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
        "assistant_ensemble_weight", "speculation_type", "compile_config", "disable_compile", "low_memory",
        "prefill_chunk_size", "transformers_version", "use_mtp", "continuous_batching_config", "generation_kwargs",
    }  # fmt: skip
    found = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert found <= known | without_effect, found - known - without_effect


def test_another_file_may_be_given(tmp_path: Path) -> None:
    opened(tmp_path / "model", {"eos_token_id": [2, 7], "do_sample": True})
    other = tmp_path / "mine.json"
    other.write_text('{"eos_token_id": 9, "temperature": "x"}', encoding="utf-8")
    checkpoint = open_checkpoint(str(tmp_path / "model"), options=ReadOptions(generation_config=other))
    assert checkpoint.config.eos_token_ids == (2, 9)
    assert section(checkpoint) == GenerationSection()
    with pytest.raises(UsageError, match="no such file"):
        open_checkpoint(str(tmp_path / "model"), options=ReadOptions(generation_config=tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"eos_token_id": "2"}, "eos_token_id = '2'"),
        ({"eos_token_id": [2, True]}, "eos_token_id"),
        ({"pad_token_id": [3]}, "pad_token_id = [3]"),
        ({"do_sample": "yes"}, "do_sample = 'yes'"),
        ({"do_sample": True, "temperature": "hot"}, "temperature = 'hot'"),
        ({"suppress_tokens": 4}, "suppress_tokens = 4"),
        ({"stop_strings": [3]}, "stop_strings = [3]"),
        ({"stop_strings": ["x" * 300]}, "stop_strings"),
        ({"repetition_penalty": 10**400}, "repetition_penalty"),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_name(tmp_path: Path, data: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, data)
    assert caught.value.message.startswith("generation_config.json: ")
    assert says in caught.value.message
