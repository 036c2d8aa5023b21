"""A bundle for ExecuTorch, run from its manifest alone: the greedy continuation of the golden prompt, compared.

    python examples/hosts/executorch_host.py BUNDLE

It needs executorch, which brings torch, and nothing of helium-edge; docs/bundle.md is the contract. One prefill
method and the decode method with the full cache are enough for every bundle.
"""

import json
import sys
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401 - registers quantized_decomposed::embedding_byte and _4bit
import torch
from executorch.runtime import Runtime

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


class Host:
    """Methods of a program, and the cache that the host owns."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        graphs = {graph["method"]: graph for graph in manifest["graphs"]}
        self.program = Runtime.get().load_program(folder / graphs["prefill"]["file"])
        self.tokens = graphs["prefill"]["tokens"]
        self.takes_last_index = any(each["role"] == "last_index" for each in graphs["prefill"]["inputs"])
        unknown = sorted({each["dtype"] for each in graphs["decode"]["inputs"]} - {*DTYPES, "int64"})
        if unknown:
            sys.exit(f"the type {unknown[0]} is not known to this host")
        pasts = [each for each in graphs["decode"]["inputs"] if each["role"] in ("past_key", "past_value")]
        self.cache = [torch.zeros(each["shape"], dtype=DTYPES[each["dtype"]]) for each in pasts]
        self.length = 0

    def call(self, method: str, ids: list, *, width: int) -> torch.Tensor:
        """Logits of the last token; the new rows go to slots `length` and up."""
        padded = torch.tensor([ids + [ids[-1]] * (width - len(ids))])
        inputs = [padded, torch.tensor([self.length])]
        if method == "prefill" and self.takes_last_index:
            inputs.append(torch.tensor([len(ids) - 1]))
        logits, *new = self.program.load_method(method).execute([*inputs, *self.cache])
        for buffer, rows in zip(self.cache, new, strict=True):
            buffer[:, self.length : self.length + len(ids)] = rows[:, : len(ids)]
        self.length += len(ids)
        return logits[0, 0 if logits.shape[1] == 1 else len(ids) - 1]

    def prefill(self, ids: list) -> torch.Tensor:
        """In chunks of as many tokens as the method has room for."""
        logits = None
        for start in range(0, len(ids), self.tokens):
            logits = self.call("prefill", ids[start : start + self.tokens], width=self.tokens)
        return logits


def main(folder: Path) -> int:
    """0 where the ids are those of the golden trace."""
    manifest = json.loads((folder / "helium-edge.json").read_text(encoding="utf-8"))
    golden, host = manifest["golden"], Host(folder, manifest)
    logits, found = host.prefill(golden["prompt_ids"]), []
    while len(found) < len(golden["greedy_ids"]):
        found.append(int(logits.argmax()))
        if len(found) < len(golden["greedy_ids"]):
            logits = host.call("decode", [found[-1]], width=1)
    same = sum(one == other for one, other in zip(found, golden["greedy_ids"], strict=True))
    print(f"{same} of {len(golden['greedy_ids'])} golden ids")
    return 0 if found == golden["greedy_ids"] else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
