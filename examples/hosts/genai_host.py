"""A bundle for onnxruntime-genai: ids in, ids out, and compared with the golden trace.

    python examples/hosts/genai_host.py BUNDLE

It needs onnxruntime-genai and tokenizers. GenAI's own tokenizer does not read Helium's Unigram tokenizer.json, so
ids are made by the tokenizers library from the same file.
"""

import json
import os
import sys
from pathlib import Path

from tokenizers import Tokenizer

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: it reports to its maker otherwise
import onnxruntime_genai as og


def main(folder: Path) -> int:
    """0 where every id is that of the golden trace."""
    golden = json.loads((folder / "helium-edge.json").read_text(encoding="utf-8"))["golden"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids, found = tokenizer.encode(golden["prompt"]).ids, []

    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False)  # max_length, the length of the cache before 0.15, stays
    generator = og.Generator(model, parameters)
    generator.append_tokens(ids)
    while len(found) < len(golden["greedy_ids"]) and not generator.is_done():
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))

    print(golden["prompt"] + tokenizer.decode(found))
    same = sum(one == other for one, other in zip(found, golden["greedy_ids"], strict=False))
    print(f"{same} of {len(golden['greedy_ids'])} golden ids")
    return 0 if found == golden["greedy_ids"] else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
