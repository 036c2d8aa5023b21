"""The public API on real bundles: what it returns is what the graphs compute; its documentation runs."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helium_edge import Classifier, Encoder, LanguageModel, export, load
from helium_edge.errors import BundleError, CacheFullError, UsageError
from helium_edge.generation import Label
from tests.helpers.chat_bundles import chat_bundle, chat_checkpoint
from tests.helpers.exports import small_recipe
from tests.helpers.text_models import make_text_model, text_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "tiny"
    return export("helium-tiny", recipe="onnx-fp32", out=out, cache_len=64, prefill_len=8, parity=False).bundle


@pytest.fixture
def model(bundle: Path) -> Iterator[LanguageModel]:
    with load(bundle, threads=1) as found:
        assert isinstance(found, LanguageModel)
        yield found


def test_options_of_the_recipe_are_replaced(model: LanguageModel) -> None:
    assert (model.manifest.cache_len, model.manifest.prefill_len, model.cache_len) == (64, 8, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prefill_len": 9999}, "prefill_len = 9999: "), ({"target": "qnn"}, "no target 'qnn'"),
     ({"recipe": "onnx-int5"}, "no recipe named 'onnx-int5'")],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export("helium-tiny", **{"recipe": "onnx-int4", "out": tmp_path / "b", **options})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_several_targets_wants_one_named(tmp_path: Path) -> None:
    recipe = small_recipe("onnx-int4").override(["onnx", "xnnpack"])
    with pytest.raises(UsageError, match="has the targets onnx, xnnpack"):
        export("helium-tiny", recipe=recipe, out=tmp_path / "b")


def test_texts_and_ids_give_the_same_and_every_call_begins_anew(model: LanguageModel) -> None:
    ids = model.tokenizer.encode("The sensor")
    first = model.generate("The sensor", max_new_tokens=8)
    assert first
    assert model.generate(ids, max_new_tokens=8) == first
    assert "".join(model.stream("The sensor", max_new_tokens=8)) == first


def test_a_stream_keeps_ids_options_and_figures(model: LanguageModel) -> None:
    stream = model.stream("The sensor", max_new_tokens=5, temperature=0.7, top_k=50, seed=3)
    text = next(stream)
    assert 1 <= len(stream.ids) < 5
    text += "".join(stream)
    assert text == model.generate("The sensor", max_new_tokens=5, temperature=0.7, top_k=50, seed=3)
    assert stream.prompt_ids == model.tokenizer.encode("The sensor")
    assert (stream.stats.new_tokens, stream.stats.stop_reason) == (5, "length")
    assert stream.options.top_k == 50


def test_logits_are_those_of_every_token(model: LanguageModel) -> None:
    """The greedy continuation is the argmax of the last row, and a row does not depend on what follows."""
    ids = model.tokenizer.encode("The sensor")
    stream = model.stream(ids, max_new_tokens=6)
    list(stream)
    rows = model.logits([*ids, *stream.ids])
    assert rows.shape == (len(ids) + 6, model.manifest.model.vocab_size)
    assert rows[len(ids) - 1 : -1].argmax(axis=1).tolist() == stream.ids
    np.testing.assert_allclose(model.logits(ids), rows[: len(ids)], atol=1e-4)


def test_a_score_is_the_sum_of_log_probabilities(model: LanguageModel) -> None:
    context, continuation = "The sensor", " reads the data"
    ids = model.tokenizer.encode(context + continuation)
    start = len(model.tokenizer.encode(context))
    rows = model.logits(ids).astype(np.float64)
    expected = sum(
        rows[at - 1, token] - np.log(np.exp(rows[at - 1]).sum()) for at, token in enumerate(ids) if at >= start
    )
    found = model.score(context, continuation)
    assert found.log_probability == pytest.approx(expected, abs=1e-3)
    assert found.tokens == len(ids) - start
    assert not found.is_greedy
    assert model.score(ids[:start], ids[start:]) == found


def test_what_greedy_decoding_writes_is_said_to_be_greedy(model: LanguageModel) -> None:
    stream = model.stream("The sensor", max_new_tokens=4)
    list(stream)
    assert model.score(stream.prompt_ids, stream.ids).is_greedy
    other = [(stream.ids[0] + 1) % 4096]
    rest = model.stream([*stream.prompt_ids, *other], max_new_tokens=3)
    list(rest)
    assert not model.score(stream.prompt_ids, [*other, *rest.ids]).is_greedy  # of the first token alone
    assert not model.score(rest.prompt_ids, [*rest.ids[:-1], (rest.ids[-1] + 1) % 4096]).is_greedy


def test_a_token_across_the_border_belongs_to_the_continuation(model: LanguageModel) -> None:
    """`The sens` + `or` is encoded as `The sensor`, whose token for ` sensor` is none of the context's."""
    found = model.score("The sens", "or")
    ids = model.tokenizer.encode("The sensor")
    assert found == model.score(ids[: len(ids) - found.tokens], ids[len(ids) - found.tokens :])


@pytest.mark.parametrize(("context", "continuation"), [([], [5]), ([1, 5], []), ("The", "")])
def test_scores_of_nothing_are_refused(model: LanguageModel, context: object, continuation: object) -> None:
    with pytest.raises(UsageError, match="at least one token"):
        model.score(context, continuation)  # type: ignore[arg-type]


def test_texts_that_do_not_fit_are_refused(model: LanguageModel) -> None:
    for call in (model.generate, model.logits):
        with pytest.raises(CacheFullError):
            call([1] * 65)
    with pytest.raises(CacheFullError):
        model.score([1] * 60, [5] * 9)


def test_a_closed_model_cannot_run(bundle: Path) -> None:
    model = load(bundle, threads=1)
    model.close()
    model.close()
    assert isinstance(model, LanguageModel)
    with pytest.raises(UsageError, match="the model is closed"):
        model.generate("a")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        load(tmp_path)


def text_bundle(folder: Path, architecture: str) -> Path:
    source = make_text_model(folder / "checkpoint", architecture)
    return export(source, recipe=text_recipe("onnx-fp32"), out=folder / "bundle", parity=False).bundle


def test_a_classifier_of_texts(tmp_path: Path) -> None:
    model = load(text_bundle(tmp_path, "HeliumForSequenceClassification"), threads=1)
    assert isinstance(model, Classifier)
    assert model.labels == ("calm", "warm", "hot")
    logits = model.runner.run([1, 5, 7])
    found = model.classify([1, 5, 7])
    assert [label.label for label in found] == [model.labels[at] for at in np.argsort(-logits)]
    assert [label.logit for label in found] == sorted(logits.tolist(), reverse=True)
    assert sum(label.score for label in found) == pytest.approx(1, abs=1e-6)
    with pytest.raises(UsageError, match="labels texts, not tokens"):
        model.classify_tokens("a")


def test_a_classifier_of_tokens(tmp_path: Path) -> None:
    model = load(text_bundle(tmp_path, "HeliumForTokenClassification"), threads=1)
    assert isinstance(model, Classifier)
    tokens = model.classify_tokens([1, 5, 7])
    assert [token.id for token in tokens] == [1, 5, 7]
    assert all(isinstance(label, Label) for token in tokens for label in token.labels)
    with pytest.raises(UsageError, match="labels tokens, not texts"):
        model.classify("a")


def test_an_encoder(tmp_path: Path) -> None:
    model = load(text_bundle(tmp_path, "HeliumModel"), threads=1)
    assert isinstance(model, Encoder)
    states = model.hidden_states([1, 5, 7])
    assert states.shape == (3, model.manifest.model.hidden_size)
    with pytest.raises(UsageError, match="the graph takes 12"):
        model.hidden_states([1] * 13)


@pytest.mark.full
def test_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chat_bundle(chat_checkpoint(tmp_path / "helium-tiny-chat"), "onnx-int8", tmp_path / "my-chat")
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, "api.md", "docs/api.md", 0)
    assert len(test.examples) > 15
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
