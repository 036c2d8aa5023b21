"""Make helium-tiny-outliers: the function of helium-tiny, with channels that are 30 times as large.

    python benchmarks/make_outliers.py helium-tiny-outliers

Models of billions of parameters have a few channels far larger than the others; helium-tiny has none. Here 4
hidden channels after every norm, 8 channels of each MLP and 2 of the values of each layer are multiplied, and the
weights that read them are divided, so that logits stay as they are. What rounds such activations, or such weights,
shows it. Written in float32: bfloat16 would round the divided weights.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny"
FACTOR, HIDDEN, INNER, VALUES = 30.0, 4, 8, 2
SEED = 3


def add_outliers(weights: dict[str, Tensor], config: dict[str, int], factor: float = FACTOR) -> dict[str, Tensor]:
    """The same function with large channels; `weights` in float32 by their names, changed in place."""
    generator = torch.Generator().manual_seed(SEED)

    def choose(size: int, count: int) -> Tensor:
        return torch.randperm(size, generator=generator)[:count]

    def move(writer: str, rows: Tensor, readers: list[str], columns: Tensor) -> None:
        weights[writer][rows] *= factor
        for reader in readers:
            weights[reader][:, columns] /= factor

    heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    hot = choose(config["hidden_size"], HIDDEN)
    for layer in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        norms = [f"model.layers.{layer}.{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")]
        move(norms[0], hot, [f"{attention}{kind}_proj.weight" for kind in "qkv"], hot)
        move(norms[1], hot, [f"{mlp}{kind}_proj.weight" for kind in ("gate", "up")], hot)
        inner = choose(config["intermediate_size"], INNER)
        move(f"{mlp}up_proj.weight", inner, [f"{mlp}down_proj.weight"], inner)
        values = choose(kv_heads * dim, VALUES)
        shared = heads // kv_heads  # query heads that read one key-value head
        read = torch.cat([(values // dim * shared + query) * dim + values % dim for query in range(shared)])
        move(f"{attention}v_proj.weight", values, [f"{attention}o_proj.weight"], read)
    move("model.norm.weight", hot, ["lm_head.weight"], hot)
    return weights


def make(folder: Path, factor: float = FACTOR) -> Path:
    """Write the checkpoint into a new folder."""
    folder.mkdir(parents=True)
    for path in TINY.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != "config.json":
            shutil.copyfile(path, folder / path.name)
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    dtype = "dtype" if "dtype" in config else "torch_dtype"
    (folder / "config.json").write_text(json.dumps({**config, dtype: "float32"}, indent=2), encoding="utf-8")
    (source,) = TINY.glob("*.safetensors")
    weights = {name: tensor.to(torch.float32) for name, tensor in load_file(source).items()}
    save_file(add_outliers(weights, config, factor), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factor", type=float, default=FACTOR)
    arguments = parser.parse_args()
    print(make(arguments.folder, arguments.factor))


if __name__ == "__main__":
    main()
