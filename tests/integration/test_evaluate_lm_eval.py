"""Against lm-eval, where it is installed: its HF backend on the same requests, and its own command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helium_edge
from helium_edge import export
from helium_edge.bundle import open_bundle
from helium_edge.errors import InputError
from helium_edge.evaluate.official import load_official, prepare_environment
from helium_edge.evaluate.prompts import make_items
from helium_edge.evaluate.questions import read_questions, sample
from helium_edge.evaluate.run import evaluate
from helium_edge.evaluate.subjects import bundle_subject
from helium_edge.evaluate.task import AskedTask, Form, find_tasks
from helium_edge.texts import evaluation_text
from mmlu_questions import mmlu_questions
from tests.helpers.bundles import bundle_recipe
from tests.helpers.evaluation import write_data

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[eval]'")
pytestmark = [
    pytest.mark.filterwarnings("default"),  # those of lm-eval and its libraries are not ours
]

TINY = Path(helium_edge.__file__).parent / "data" / "helium-tiny"
LIMIT = 1e-4
"""Nats; the sum of rounding of a choice's tokens."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    shapes = {"prefill_len": 128, "cache_len": 1024}
    return {
        name: export(TINY, recipe=bundle_recipe(name, shapes=shapes), out=folder / name, parity=False).bundle
        for name in ("onnx-fp32", "onnx-int4", "xnnpack-int4")
    }


def mmlu_pairs(folder: Path) -> list[tuple[str, str]]:
    """60 short questions of MMLU behind two examples, in both forms: 480 requests."""
    asked, _ = find_tasks(["mmlu"])
    short = [each | {"group": ""} for each in mmlu_questions() if len(each["question"].split()) <= 25]
    task = asked[0].task.model_copy(update={"shots": 2})
    data = read_questions(task, write_data(folder, "mmlu", short))
    chosen = sample(data.questions, 60)
    forms: tuple[Form, ...] = ("letters", "cloze")
    return [
        pair for form in forms for item in make_items(AskedTask(task, form), data, chosen) for pair in item.pairs
    ]


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]  # type: ignore[arg-type]


@pytest.mark.long
def test_the_hf_backend_finds_the_same(bundles: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    """fp32 to 1e-4 and every answer alike; int4 and `.pte` are reported. `-s` shows the figures."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from helium_edge.evaluate.lm_eval import HeliumEdgeLM

    pairs = mmlu_pairs(tmp_path)
    texts = [(text,) for language in ("en", "de") for text in evaluation_text(language).split("\n\n")[:4]]
    options = {"until": ["\n", "."], "max_gen_toks": 12, "do_sample": False}
    prompts = [(" ".join(text.split()[:6]), options) for (text,) in texts] + [("The sensor", options)]
    # Helium's tokenizer names no special token; the backend asks for two of them, and crashes on None.
    tokenizer = AutoTokenizer.from_pretrained(str(TINY), eos_token="</s>")
    reference, exact = (
        HFLM(
            pretrained=str(TINY), tokenizer=tokenizer, device="cpu", dtype=dtype, batch_size=1, max_length=1024,
            prefix_token_id=1,
        )
        for dtype in ("float32", "float64")
    )  # fmt: skip
    # Its own loglikelihood_rolling puts `<s>` in front of ids that start with it, and scores the second one.
    whole = [(("", text), [1], reference.tok_encode(text)[1:]) for (text,) in texts]
    right = (
        np.array(reference.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)),
        # In float64: what the backend itself rounds in float32 adds up to 1e-4 nats over some hundred tokens.
        np.array(exact._loglikelihood_tokens(whole, disable_tqdm=True))[:, 0],
        reference.generate_until(instances("generate_until", prompts), disable_tqdm=True),
    )
    assert len(pairs) + len(texts) + len(prompts) >= 490
    for name, folder in bundles.items():
        model = HeliumEdgeLM(subject=bundle_subject(open_bundle(folder), threads=1))
        found = np.array(model.loglikelihood(instances("loglikelihood", pairs)))
        rolling = np.array(model.loglikelihood_rolling(instances("loglikelihood_rolling", texts)))
        written = model.generate_until(instances("generate_until", prompts))
        off = np.abs(found[:, 0] - right[0][:, 0]).max(), np.abs(rolling - right[1]).max()
        picks = found[:, 0].reshape(-1, 4).argmax(1), right[0][:, 0].reshape(-1, 4).argmax(1)
        changed = int((picks[0] != picks[1]).sum())
        # The backend decodes new ids by themselves, which loses the blank between prompt and continuation.
        differ = sum(one.strip() != other.strip() for one, other in zip(written, right[2], strict=True))
        told = [
            f"{name}: {len(pairs)} choices off by at most {off[0]:.1e} nats, {changed} answers changed",
            f"{len(texts)} texts off by at most {off[1]:.1e}, {differ} of {len(prompts)} continuations differ",
        ]
        with capsys.disabled():
            sys.stdout.write("\n" + "; ".join(told) + "\n")
        assert model.subject.scorer.counts.fed * 2 < model.subject.scorer.counts.asked
        if name == "onnx-fp32":
            assert max(off) <= LIMIT
            assert (changed, differ) == (0, 0)
            assert (found[:, 1] == right[0][:, 1]).all()


@pytest.mark.full
@pytest.mark.parametrize("fault", ["left out", "doubled"])
def test_bos_left_out_or_doubled_is_noticed(bundles: dict[str, Path], fault: str, monkeypatch: Any) -> None:
    subject = bundle_subject(open_bundle(bundles["onnx-fp32"]), threads=1)
    right = subject.scorer.score([subject.encoder.request("The sensor", " reads 21 degrees")])
    true = subject.encoder.encode
    change = (lambda ids: ids[1:]) if fault == "left out" else (lambda ids: [ids[0], *ids])
    monkeypatch.setattr(subject.encoder, "encode", lambda text: change(true(text)))
    wrong = subject.scorer.score([subject.encoder.request("The sensor", " reads 21 degrees")])
    assert abs(right[0].log_probability - wrong[0].log_probability) > 100 * LIMIT


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder with a task of lm-eval, `few`, over eight questions in a file."""
    data = tmp_path / "data.jsonl"
    rows = [{"q": each["question"], "c": each["choices"], "a": each["answer"]} for each in mmlu_questions()[:8]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "few.yaml").write_text(
        f"task: few\ndataset_path: json\ndataset_kwargs: {{data_files: {{validation: {data}}}}}\n"
        "validation_split: validation\noutput_type: multiple_choice\n"
        "doc_to_text: q\ndoc_to_choice: c\ndoc_to_target: a\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.full
def test_tasks_of_lm_eval_are_paired_like_ours(
    bundles: dict[str, Path], few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TQDM_DISABLE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # restored after the test
    prepare_environment(few, offline=True)
    official = load_official(["few"], 6, include=few)
    document = evaluate(bundles["onnx-fp32"], [], few / "store", official=official, threads=1)
    (row,) = document["tasks"]
    assert (row["task"], row["form"], row["metric"], row["n"], row["questions"]) == (
        "few",
        "official",
        "acc",
        6,
        8,
    )
    assert (row["difference"], row["lost"], row["gained"], row["changed"]) == (0, 0, 0, 0)
    assert document["work"]["artifact"]["requests"] == document["work"]["original"]["requests"] == 24
    with pytest.raises(InputError, match="lm-eval has no task 'fwe'"):
        load_official(["fwe"], 6, include=few)


@pytest.mark.full
def test_lm_eval_s_own_command_line_runs_a_bundle(bundles: dict[str, Path], few: Path) -> None:
    command = [
        sys.executable, "-m", "helium_edge.evaluate.lm_eval", "run", "--model", "helium-edge",
        "--model_args", f"bundle={bundles['onnx-int4']},threads=1", "--tasks", "few",
        "--include_path", str(few), "--output_path", str(few / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|few" in done.stdout
