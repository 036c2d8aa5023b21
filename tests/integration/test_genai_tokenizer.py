"""That onnxruntime-genai needs ids: no class that its tokenizer knows makes ours of a Unigram tokenizer.json.

Where this fails a newer release has learnt it, and docs/bundle.md, the model card and README.md, which say that it
needs them, are out of date.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from helium_edge.exporting import ExportRequest, export_all
from helium_edge.recipe import load_recipe

og = pytest.importorskip("onnxruntime_genai", exc_type=ImportError)

pytestmark = pytest.mark.full

CLASSES = (
    "PreTrainedTokenizerFast", "LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "T5Tokenizer",
    "XLMRobertaTokenizer", "DebertaV2Tokenizer", "MarianTokenizer", "ChatGLMTokenizer",
)  # fmt: skip
TEXTS = ("The device", "two  blanks", "a\n\nline", "Доброго ранку", "日本", "👍")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("genai") / "bundle"
    export_all(ExportRequest("helium-tiny", load_recipe("onnx-int4"), out, parity=False))
    return out


@pytest.mark.parametrize("name", CLASSES)
def test_its_tokenizer_makes_other_ids(name: str, bundle: Path, tmp_path: Path) -> None:
    """Even with the BOS put in front by hand, which it does not do by itself."""
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": name, "add_bos_token": True, "bos_token": "<s>", "unk_token": "<unk>"}
    path.write_text(json.dumps(config), encoding="utf-8")
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    try:
        tokenizer = og.Tokenizer(og.Model(str(folder)))
    except RuntimeError:  # it takes the file for BPE: "type must be object, but is array"
        return
    made = [[int(each) for each in tokenizer.encode(text)] for text in TEXTS]
    wanted = [library.encode(text).ids for text in TEXTS]
    assert [ids if ids[:1] == [1] else [1, *ids] for ids in made] != wanted
    assert made[3:] != wanted[3:], "no byte fallback"
