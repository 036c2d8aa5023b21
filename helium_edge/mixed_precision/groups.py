"""Groups of matrices that share a scheme: those that read one input and run as one product.

With two schemes they would be two products; and a head that is tied to the embedding is stored once.
"""

from __future__ import annotations

from dataclasses import dataclass

from helium_edge.config import ModelConfig
from helium_edge.model.weights import EMBEDDING, head_name
from helium_edge.quant.calibrated.inputs import INPUTS, InputName, head_weight, readers

EMBEDDING_GROUP = "embedding"
HEAD_GROUP = "head"


@dataclass(frozen=True)
class Group:
    """Matrices that get one scheme.

    Attributes:
        kind: What they read, or `embedding`, or `head`.
        names: The matrices, in the order in which they are stacked.
        layer: Of the decoder; None of the embedding and the head.
    """

    kind: str
    names: tuple[str, ...]
    layer: int | None = None

    @property
    def label(self) -> str:
        """For people: `layer 3 mlp`, `head`."""
        return self.kind if self.layer is None else f"layer {self.layer} {self.kind}"


def groups_of(config: ModelConfig) -> list[Group]:
    """All groups of a model, in the order of the forward pass."""
    head = head_name(config)
    tied = head is not None and head_weight(config) is None
    first = Group(EMBEDDING_GROUP, (EMBEDDING, head) if tied and head is not None else (EMBEDDING,))
    layers = [_of_layer(layer, name) for layer in range(config.num_hidden_layers) for name in INPUTS]
    return [first, *layers, *([] if head is None or tied else [Group(HEAD_GROUP, (head,))])]


def _of_layer(layer: int, name: InputName) -> Group:
    return Group(name, tuple(readers(layer, name)), layer)
