"""The engines that are timed, each behind the same two calls; imported in a worker process only.

    append(tokens)   append one or more tokens, and return the logits of the last one, (V,) float32
    seek(position)   forget the tokens from a position on

Logits are returned so that an engine can be held against the model before it is timed.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """A decoder with its context; `version` names the libraries that run it."""

    version: str

    def append(self, tokens: Sequence[int]) -> Logits: ...

    def seek(self, position: int) -> None: ...


class LlamaCpp:
    """A GGUF file through llama.cpp's C API: the calls of `llama-bench`, its options as default."""

    def __init__(self, path: Path, threads: int, cache_len: int) -> None:
        import llama_cpp

        self._api = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"{path.name}: llama.cpp cannot load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = cache_len
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        flags = re.findall(r"(\w+) = 1\b", llama_cpp.llama_print_system_info().decode())
        self.version = f"{versions('llama-cpp-python')} ({', '.join(flags)})"

    def append(self, tokens: Sequence[int]) -> Logits:
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        done = 0
        while done < len(tokens):
            count = min(self._api.llama_n_batch(self._context), len(tokens) - done)
            part = (ctypes.c_int32 * count)(*ids[done : done + count])
            code = self._api.llama_decode(self._context, self._api.llama_batch_get_one(part, count))
            if code != 0:
                raise RuntimeError(f"llama_decode returned {code}")
            done += count
        self._api.llama_synchronize(self._context)
        row = self._api.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(row, shape=(self._vocab,)).copy()

    def seek(self, position: int) -> None:
        if not self._api.llama_memory_seq_rm(self._api.llama_get_memory(self._context), 0, position, -1):
            raise RuntimeError(f"llama.cpp cannot forget the tokens from {position} on")


class Transformers:
    """`AutoModelForCausalLM` in eager mode, bfloat16 unless asked otherwise, with the cache it makes itself."""

    def __init__(self, path: Path, threads: int, cache_len: int, dtype: str = "bfloat16") -> None:
        import torch
        import transformers

        del cache_len  # the cache grows
        torch.set_num_threads(threads)
        transformers.logging.disable_progress_bar()
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        self._past: Any = None
        self.version = versions("transformers", "torch")

    def append(self, tokens: Sequence[int]) -> Logits:
        with self._torch.inference_mode():
            ids = self._torch.tensor([list(tokens)])
            found = self._model(ids, past_key_values=self._past, use_cache=True, logits_to_keep=1)
            self._past = found.past_key_values
            row: Logits = found.logits[0, -1].float().numpy()
            return row

    def seek(self, position: int) -> None:
        if position == 0:
            self._past = None
        elif position < self._past.get_seq_length():
            self._past.crop(position - self._past.get_seq_length())  # the newest takes no other form


class Genai:
    """A folder with a `genai_config.json` in onnxruntime-genai: its builder's, or one of our bundles."""

    def __init__(self, path: Path, threads: int, cache_len: int) -> None:
        import onnxruntime_genai as og

        self._og = og
        config = og.Config(str(path))
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)
        self._params = og.GeneratorParams(self._model)
        self._params.set_search_options(max_length=cache_len, do_sample=False)
        self.version = versions("onnxruntime-genai")
        self._generator = og.Generator(self._model, self._params)

    def append(self, tokens: Sequence[int]) -> Logits:
        self._generator.append_tokens(np.asarray([list(tokens)], np.int32))
        logits = np.asarray(self._generator.get_logits(), np.float32)
        row: Logits = logits.reshape(-1, logits.shape[-1])[-1]
        return row

    def seek(self, position: int) -> None:
        if position < self._generator.token_count():
            self._generator.rewind_to(position)


class Optimum:
    """A folder of `optimum-cli export onnx` in optimum-onnx's own `ORTModelForCausalLM`."""

    def __init__(self, path: Path, threads: int, cache_len: int) -> None:
        import onnxruntime as ort
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        del cache_len  # the cache grows
        torch.set_num_threads(threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._torch = torch
        self._model = ORTModelForCausalLM.from_pretrained(path, session_options=options)
        self._past: Any = None
        self.version = versions("optimum-onnx", "onnxruntime")

    def append(self, tokens: Sequence[int]) -> Logits:
        ids = self._torch.tensor([list(tokens)])
        length = (self._past[0][0].shape[2] if self._past else 0) + len(tokens)
        mask = self._torch.ones(1, length, dtype=self._torch.int64)
        positions = self._torch.arange(length - len(tokens), length)[None]
        found = self._model(ids, attention_mask=mask, position_ids=positions, past_key_values=self._past)
        self._past = found.past_key_values
        row: Logits = found.logits[0, -1].float().numpy()
        return row

    def seek(self, position: int) -> None:
        if position == 0:
            self._past = None
        else:
            self._past = tuple(tuple(part[:, :, :position] for part in layer) for layer in self._past)


ENGINES: dict[str, Callable[[Path, int, int], Engine]] = {
    "llama.cpp": LlamaCpp,
    "transformers": Transformers,
    "genai": Genai,
    "optimum": Optimum,
}


def versions(*packages: str) -> str:
    """`name version` of installed packages."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
