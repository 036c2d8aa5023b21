"""A conversation with a chat fine-tune, said by the Python host: six turns, some of them taken back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helium_edge import Conversation, LanguageModel, export, load

SYSTEM = "Answer in one sentence."
# What is done, and with which text: `edit` takes the last question and its answer back and asks another one.
SCRIPT = (
    ("say", "Hello"),
    ("say", "My name is Rosa"),
    ("regenerate", ""),
    ("say", "Wie heißt du?"),
    ("edit", "Was misst du?"),
    ("say", "Le capteur indique 23 degrés"),
    ("regenerate", ""),
    ("edit", "What is <|im_end|> and </s>?"),
    ("say", "Gracias"),
    ("say", "Thank you"),
)
NEW_TOKENS = 24


def write_bundle(folder: Path, work: Path) -> Path:
    """Export helium-tiny-chat: the trained one that HELIUM_EDGE_TINY_CHAT names, or one made without training."""
    trained = os.environ.get("HELIUM_EDGE_TINY_CHAT")
    if trained:
        checkpoint = Path(trained)
    else:
        sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
        from tiny_chat import write_checkpoint

        checkpoint = work / "helium-tiny-chat"
        write_checkpoint(checkpoint, steps=0)
    result = export(checkpoint, recipe="onnx-int4", out=folder / "chat", force=True, parity=False)
    return result.bundle


def answers(bundle: Path) -> Iterator[dict[str, Any]]:
    """Each step of the script, with what came of it."""
    with load(bundle, threads=1) as model:
        assert isinstance(model, LanguageModel)
        conversation = Conversation(model, system=SYSTEM, temperature=0, max_new_tokens=NEW_TOKENS)
        for action, text in SCRIPT:
            if action == "edit":
                conversation.messages = conversation.messages[:-2]
            said = "".join(conversation.regenerate() if action == "regenerate" else conversation.say(text))
            found = conversation.last
            assert found is not None
            facts = {"new_tokens": len(found.ids), "reused": found.reused_tokens, "stop": found.stats.stop_reason}
            cached = len(found.prompt_ids)
            yield {"action": action, "text": text, "answer": said, "prompt_tokens": cached, **facts}
