"""A bundle for ONNX Runtime, run from its manifest alone (docs/bundle.md), and compared with its golden trace.

python examples/hosts/onnxruntime_host.py BUNDLE [--static]      the graphs of phase prefill and decode
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, or it reports to its maker
import onnxruntime as ort


class Host:
    """One session a graph, and the cache that the host owns; caches of both kinds of update."""

    def __init__(self, folder: Path, manifest: dict, *, static: bool) -> None:
        graphs = {graph["phase"]: graph for graph in manifest["graphs"]}
        names = ["prefill", "decode"] if static or "any" not in graphs else ["any"]
        load = [(graphs[name], str(folder / graphs[name]["file"])) for name in names]
        self.graphs = [(each, ort.InferenceSession(path, None, ["CPUExecutionProvider"])) for each, path in load]
        cache = manifest["cache"]
        self.cache = [np.zeros(cache["shape"], cache["dtype"]) for _ in range(2 * cache["layers"])]
        self.width, self.slots, self.length = manifest["prefill_len"], manifest["cache_len"], 0

    def call(self, ids: list) -> np.ndarray:
        """Logits of the last of at most `width` tokens; their rows go to slots `length` and up."""
        graph, session = self.graphs[0 if len(ids) > 1 else -1]
        width = graph["tokens"] or len(ids)
        padded = ids + [ids[-1]] * (width - len(ids))
        given = {"tokens": [padded], "past_length": [self.length], "last_index": [len(ids) - 1]}
        binding, past, present = session.io_binding(), iter(self.cache), iter(self.cache)
        arrays, new = {}, []  # a binding of older versions keeps no array alive
        for entry in graph["inputs"] + graph["outputs"]:
            role = entry["role"]
            if role in given:
                array = np.array(given[role], entry["dtype"])
            elif role in ("past_key", "past_value", "present_key", "present_value"):
                array = next(past if role.startswith("past") else present)  # in place: one memory for both
            else:
                array = np.zeros([n if isinstance(n, int) else width for n in entry["shape"]], entry["dtype"])
                new += [array] if role in ("new_key", "new_value") else []
            arrays[entry["name"]] = array
            bind = binding.bind_ortvalue_input if entry in graph["inputs"] else binding.bind_ortvalue_output
            bind(entry["name"], ort.OrtValue.ortvalue_from_numpy(array))
        session.run_with_iobinding(binding)
        for index, rows in enumerate(new):  # append: the real rows go to their slots, those of padding do not
            self.cache[index][0, :, self.length : self.length + len(ids)] = rows[:, : len(ids)]
        self.length += len(ids)
        return arrays["logits"][0, 0 if arrays["logits"].shape[1] == 1 else len(ids) - 1]

    def prefill(self, ids: list) -> np.ndarray:
        """The whole prompt; where a padded chunk would pass the last slot, token by token."""
        while ids:
            n = self.width if self.graphs[0][0]["tokens"] is None or self.length + self.width <= self.slots else 1
            logits, ids = self.call(ids[:n]), ids[n:]
        return logits


def main(folder: Path, *, static: bool) -> int:
    """0 where every id is that of the golden trace, or of a near tie with it."""
    manifest = json.loads((folder / "helium-edge.json").read_text(encoding="utf-8"))
    golden, host = manifest["golden"], Host(folder, manifest, static=static)
    logits, ids = host.prefill(golden["prompt_ids"]), golden["greedy_ids"]
    off, other = max(abs(float(logits[top["id"]]) - top["logit"]) for top in golden["top5_first"]), []
    for step, token in enumerate(ids):
        other += [step] if int(logits.argmax()) != token else []
        logits = host.call([token]) if step + 1 < len(ids) else logits  # the recorded one, also after a near tie
    allowed = golden["tolerances"]["other"]  # of a logit: processors and versions of the runtime round otherwise
    ties = [step for step in other if golden["margins"][step] <= allowed]
    print(f"{len(ids) - len(other)} of {len(ids)} golden ids, near ties at {ties}, first logits {off:.2g} off")
    return 0 if ties == other and off <= allowed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), static="--static" in sys.argv))
