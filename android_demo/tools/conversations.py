"""A conversation with a chat fine-tune, said by the Python host: six turns, after others were taken back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helium_edge import Conversation, LanguageModel, export, load

SYSTEM = "Answer in one sentence."
# What is done, with which text, and how many questions with their answers are taken back before.
SCRIPT = (
    ("say", "Hello", 0),
    ("say", "My name is Rosa", 0),
    ("regenerate", "", 0),
    ("say", "Wie heißt du?", 0),
    ("edit", "Was misst du?", 1),
    ("say", "Le capteur indique 23 degrés", 0),
    ("regenerate", "", 0),
    ("edit", "What is <|im_end|> and </s>?", 3),
    ("say", "Gracias", 0),
    ("say", "Thank you", 0),
    ("say", "Come ti chiami?", 0),
    ("edit", "Good morning", 5),
    ("say", "Obrigado", 0),
    ("say", "How warm is it?", 0),
    ("say", "Danke", 0),
    ("say", "Adiós", 0),
    ("edit", "Au revoir", 2),
    ("say", "Grazie", 0),
    ("say", "Ciao", 0),
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
        for action, text, back in SCRIPT:
            conversation.messages = conversation.messages[: len(conversation.messages) - 2 * back]
            said = "".join(conversation.regenerate() if action == "regenerate" else conversation.say(text))
            found = conversation.last
            assert found is not None
            facts = {"new_tokens": len(found.ids), "reused": found.reused_tokens, "stop": found.stats.stop_reason}
            cached = len(found.prompt_ids)
            yield {"action": action, "text": text, "back": back, "answer": said, "prompt_tokens": cached, **facts}
