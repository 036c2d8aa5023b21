"""The shards of a calibration: codes and scales of each weight, and the factors of each layer.

A shard's key is a hash over all that decides about its numbers: version of the code, options, texts, scheme, the
bytes of the original, and everything that was found before it, since later layers depend on earlier ones. A walk
that was interrupted, at any shard, so takes up what is there and goes on with the same numbers; what belongs to
another text or another recipe has another key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from typing_extensions import override

from helium_edge.quant.affine import QuantizedWeight, relative_error
from helium_edge.quant.calibrated.walk import Originals, Results
from helium_edge.quant.plan import PlannedWeight
from helium_edge.quant.shard import read_vectors, read_weight_shard, tensor_hash, write_vectors, write_weight
from helium_edge.recipe import Scheme


class ShardResults(Results):
    """Results in a folder, one shard a weight.

    Args:
        folder: Where shards are; created when the first one is written.
        plan: What happens to each matrix.
        originals: The weights of the checkpoint.
        identity: What decides about all numbers: version of the code, options, texts.

    Attributes:
        errors: `affine.relative_error` of each weight that was found or read.
        digest: Hash over all of it so far.
    """

    def __init__(
        self, folder: Path, plan: Sequence[PlannedWeight], originals: Originals, identity: Mapping[str, object]
    ) -> None:
        self.errors: dict[str, float] = {}
        self.digest = _hash(dict(identity))
        self._folder = folder
        self._planned = {planned.name: planned for planned in plan}
        self._originals = originals
        self._keys: dict[str, str] = {}
        self._asked: dict[str, str] = {}

    @override
    def factors(self, layer: int | None) -> Mapping[str, Tensor] | None:
        name = _fold_name(layer)
        found = read_vectors(self._path(name, self._fold_key(name)), key=self._fold_key(name))
        if found is None:
            return None
        self._advance([found[1]])
        return found[0]

    @override
    def put_factors(self, layer: int | None, factors: Mapping[str, Tensor]) -> None:
        name = _fold_name(layer)
        key = self._fold_key(name)
        self._advance([write_vectors(self._path(name, key), factors, key=key)])

    @override
    def weights(self, names: Sequence[str]) -> list[QuantizedWeight] | None:
        self._asked = {name: self._weight_key(name) for name in names}
        found = [self._read(name, key) for name, key in self._asked.items()]
        if any(each is None for each in found):
            return None  # all of them anew: what is computed together has the same last bits only together
        shards = [each for each in found if each is not None]
        for name, (_, error, _) in zip(names, shards, strict=True):
            self.errors[name] = error
        self._keep(names, [content for _, _, content in shards])
        return [weight for weight, _, _ in shards]

    @override
    def put_weights(
        self, names: Sequence[str], originals: Sequence[Tensor], found: Sequence[QuantizedWeight]
    ) -> None:
        contents = []
        for name, original, weight in zip(names, originals, found, strict=True):
            error = relative_error(original, weight)
            key = self._asked[name]
            contents.append(write_weight(self._path(name, key), weight, error, key=key, facts={}))
            self.errors[name] = error
        self._keep(names, contents)

    def read(self, name: str) -> QuantizedWeight | None:
        """A weight that was found or read before; None where its shard has been damaged since."""
        found = self._read(name, self._keys[name])
        return None if found is None else found[0]

    def _read(self, name: str, key: str) -> tuple[QuantizedWeight, float, str] | None:
        planned = self._planned[name]
        return read_weight_shard(self._path(name, key), key=key, scheme=_scheme(planned), shape=planned.shape)

    def _keep(self, names: Sequence[str], contents: Sequence[str]) -> None:
        self._keys |= {name: self._asked[name] for name in names}
        self._advance([*(self._asked[name] for name in names), *contents])

    def _advance(self, parts: Sequence[str]) -> None:
        self.digest = _hash([self.digest, *parts])

    def _fold_key(self, name: str) -> str:
        return _hash([self.digest, name])

    def _weight_key(self, name: str) -> str:
        original = self._originals.read(name)
        scheme = str(_scheme(self._planned[name]))
        return _hash([self.digest, name, scheme, str(original.dtype), tensor_hash(original)])

    def _path(self, name: str, key: str) -> Path:
        return self._folder / f"{name}-{key[:16]}.safetensors"


def _fold_name(layer: int | None) -> str:
    return "head.factors" if layer is None else f"model.layers.{layer}.factors"


def _scheme(planned: PlannedWeight) -> Scheme:
    assert planned.scheme is not None
    return planned.scheme


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
