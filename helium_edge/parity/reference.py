"""The original model on transformers, in float32: what every export is compared with.

The only module that imports transformers, and only when a reference is made.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from helium_edge.documents import first_line
from helium_edge.errors import CheckpointError, MissingDependencyError, ResourceError
from helium_edge.parity.spelling import folder_for_transformers
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.runner import Logits, check_seek, check_tokens
from helium_edge.signature import LogitsMode

if TYPE_CHECKING:
    from pathlib import Path

    from helium_edge.checkpoint import Checkpoint
    from helium_edge.checkpoint.adapter import Adapter
    from helium_edge.config import ModelConfig


def require_reference() -> None:
    """Refuse early, before any work is done, when a reference could not be made.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    if sys.modules.get("transformers", True) is None or importlib.util.find_spec("transformers") is None:
        raise MissingDependencyError("transformers", extra="reference", purpose="parity")


def reference_runner(checkpoint: Checkpoint, cache_len: int, *, logits: LogitsMode = "all") -> ReferenceRunner:
    """The original language model behind the `Runner` protocol; raises as `load_reference` does.

    Args:
        checkpoint: The original; nothing is fetched, its folder is complete.
        cache_len: S; more tokens are refused, as by the graphs.
        logits: What `prefill` returns: a row per token, or the last row only.
    """
    model = load_reference(checkpoint)
    from transformers import DynamicCache

    return ReferenceRunner(model, DynamicCache, checkpoint.config.vocab_size, cache_len, logits)


def load_reference(checkpoint: Checkpoint) -> Any:
    """Load the original weights in float32 into the transformers class of its config, from disk.

    Loading is the only way to a float32 reference: a model that was ever cast to bfloat16 has rounded RoPE
    frequencies, which `.float()` does not bring back.

    Args:
        checkpoint: The original; nothing is fetched, its folder is complete.

    Returns:
        The model, in eval mode.

    Raises:
        MissingDependencyError: transformers is not installed.
        CheckpointError: transformers cannot load it, or understands it otherwise than we do.
        ResourceError: Not enough memory for the float32 weights.
    """
    try:
        with quiet(descriptors=False):  # torch warns of what torchao registers, where it is installed
            import transformers

            # One of config.ARCHITECTURES, never a name from elsewhere. Its module is imported here.
            model_class: Any = getattr(transformers, checkpoint.config.architecture)
    except ImportError as error:
        raise MissingDependencyError("transformers", extra="reference", purpose="parity") from error
    try:
        with (
            silent_transformers(transformers),
            folder_for_transformers(checkpoint, transformers.__version__) as folder,
        ):
            model, report = model_class.from_pretrained(
                **_weights_of(checkpoint, model_class, folder),
                dtype=torch.float32,
                attn_implementation="eager",  # the plainest path, the one that the others are tested against
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except MemoryError as error:
        raise ResourceError(
            f"{checkpoint.source}: not enough memory for the float32 reference",
            hint=f"it takes {4 * checkpoint.config.num_parameters / 1e9:.1f} GB",
        ) from error
    except Exception as error:  # transformers raises whatever its parts raise
        raise CheckpointError(
            f"{checkpoint.source}: transformers {transformers.__version__} cannot load it: {first_line(error)}"
        ) from error
    random = sorted(report["missing_keys"])
    if random:
        raise CheckpointError(
            f"{checkpoint.source}: transformers {transformers.__version__} finds no weights for {random[0]}"
            f"{f' and {len(random) - 1} more' if len(random) > 1 else ''}; it would make them up"
        )
    model.eval()
    if checkpoint.adapter is not None:
        attach_adapter(model, checkpoint.adapter)
    base = getattr(model, "model", model)  # the bare model has no outer one
    check_frequencies(base.rotary_emb.inv_freq, checkpoint.config, checkpoint.source)
    return model


def _weights_of(checkpoint: Checkpoint, model_class: Any, folder: Path) -> dict[str, Any]:
    """Where transformers finds the weights: in the folder, or by name where it would not know them by theirs."""
    if not checkpoint.is_renamed:
        return {"pretrained_model_name_or_path": str(folder)}
    return {
        "pretrained_model_name_or_path": None,
        "config": model_class.config_class.from_pretrained(str(folder)),
        "state_dict": {name: checkpoint.read_base(name) for name in checkpoint.tensors},
    }


def attach_adapter(model: Any, adapter: Adapter) -> None:
    """Give a model the adapter's own path beside each weight, y = W x + s B (A x), as it was trained.

    Nothing is merged here, so that the merge of the export is compared with something else than itself.

    Args:
        model: The base model, float32.
        adapter: Fits it.
    """
    for name, info in adapter.replaced.items():
        model.get_parameter(name).data = adapter.read(info)
    for name, factors in adapter.factors.items():
        a, b = adapter.read(factors.a), adapter.read(factors.b)

        def linear(_: Any, args: Any, output: Any, a: Any = a, b: Any = b, scale: float = factors.scale) -> Any:
            return output + (args[0] @ a.T @ b.T) * scale

        def embedding(_: Any, args: Any, output: Any, a: Any = a, b: Any = b, scale: float = factors.scale) -> Any:
            return output + (torch.nn.functional.embedding(args[0], a.T.contiguous()) @ b.T) * scale

        module = model.get_submodule(name.removesuffix(".weight"))
        module.register_forward_hook(embedding if factors.embedding else linear)


def check_frequencies(found: torch.Tensor, config: ModelConfig, source: str) -> None:
    """Refuse a reference whose RoPE frequencies are not those of the config.

    transformers 4 by itself reads a config written by transformers 5 without error and with the default theta
    (see `helium_edge.parity.spelling`).

    Args:
        found: (D/2,) inverse frequencies of the loaded model.
        config: What we read from the same config.json.
        source: The checkpoint, for the message.

    Raises:
        CheckpointError: They differ by more than float32 rounding.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    expected = config.rope_theta**-exponents
    if found.shape != expected.shape or not torch.allclose(found.double(), expected, rtol=1e-5, atol=0.0):
        raise CheckpointError(
            f"{source}: the RoPE frequencies that transformers loaded are not those of rope_theta = "
            f"{config.rope_theta:g} in config.json",
            hint="install the newest transformers",
        )


@contextmanager
def silent_transformers(transformers: Any) -> Iterator[None]:
    """No progress bars and no log lines of transformers inside; its settings as before outside."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


class ReferenceRunner:
    """A language model of transformers behind the `Runner` protocol; its cache grows, `cache_len` only limits it.

    Args:
        model: A float32 `HeliumForCausalLM` or `LlamaForCausalLM` in eval mode.
        new_cache: Makes an empty cache (`DynamicCache`).
        vocab_size: V.
        cache_len: S.
        logits: `all`: `prefill` returns (len(tokens), V); `last`: (1, V). May be changed at any time.
    """

    def __init__(self, model: Any, new_cache: Any, vocab_size: int, cache_len: int, logits: LogitsMode) -> None:
        self.vocab_size = vocab_size
        self.cache_len = cache_len
        self.logits: LogitsMode = logits
        self._model = model
        self._new_cache = new_cache
        # The argument's name until transformers 5.23, and from 5.24 on.
        names = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        self.reset()

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._position

    def reset(self) -> None:
        """Start a new conversation with an empty cache."""
        self._cache = self._new_cache(config=self._model.config)
        self._position = 0

    def seek(self, position: int) -> None:
        """Keep the first tokens of the cache; see `RewindableRunner.seek`."""
        check_seek(position, self._position)
        if position == 0:
            self.reset()
        elif position < self._position:
            # Negative is how many to remove, which transformers 4 and 5 understand alike.
            self._cache.crop(position - self._position)
            self._position = position

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append tokens; returns (len(tokens), V), or (1, V) when `logits` is `last`."""
        return self._step(tokens, 0 if self.logits == "all" else 1)

    def prefill_rows(self, tokens: Sequence[int]) -> Logits:
        """Append tokens; returns (len(tokens), V), whatever `logits` says."""
        return self._step(tokens, 0)

    def decode(self, token: int) -> Logits:
        """Append one token; returns (V,)."""
        row: Logits = self._step([token], 1)[0]
        return row

    @torch.inference_mode()
    def _step(self, tokens: Sequence[int], keep: int) -> Logits:
        """Run tokens after those in the cache; `keep` rows of logits from the end, 0 for all."""
        check_tokens(tokens, position=self._position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        ids = torch.tensor([list(tokens)], dtype=torch.int64)
        cache = {self._cache_name: self._cache}
        output = self._model(ids, **cache, use_cache=True, logits_to_keep=keep)
        self._position += len(tokens)
        rows: Logits = output.logits[0].numpy()
        return rows
