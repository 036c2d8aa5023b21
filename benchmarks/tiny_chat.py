"""Make helium-tiny-chat, a chat fine-tune of the checkpoint in the package, for tests of the whole road.

    python benchmarks/tiny_chat.py helium-tiny-chat
    python benchmarks/tiny_chat.py helium-tiny-chat --steps 0

Two turn tokens are added, a ChatML template and two stop ids (`</s>`, `<|im_end|>`), and the weights are trained
for a few hundred steps on short dialogues in six languages that are put together here. Minutes on two cores; with
`--steps 0` seconds, for tests that need the form and not the answers. Needs the extra `reference`.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
import torch

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny"
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{{{ '{START}' + message['role'] + '\\n' + message['content'] + '{END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
)
BATCH, LENGTH = 8, 96
PEAK_RATE = 1.5e-3

NAMES = ("Ana", "Ben", "Carla", "David", "Elena", "Luca", "Marie", "Paul", "Rosa", "Tom")
NUMBERS = tuple(str(number) for number in range(10, 40))
DIALOGUES: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("Hello", "Hello! How can I help?"),
        ("My name is {name}", "Nice to meet you, {name}."),
        ("What do you measure?", "I measure temperature."),
        ("The sensor reads {number} degrees", "Then it is {number} degrees."),
        ("Thank you", "You are welcome."),
    ),
    "fr": (
        ("Bonjour", "Bonjour ! Comment puis-je aider ?"),
        ("Je m'appelle {name}", "Enchanté, {name}."),
        ("Que mesures-tu ?", "Je mesure la température."),
        ("Le capteur indique {number} degrés", "Alors il fait {number} degrés."),
        ("Merci", "De rien."),
    ),
    "de": (
        ("Guten Tag", "Guten Tag! Wie kann ich helfen?"),
        ("Ich heiße {name}", "Freut mich, {name}."),
        ("Was misst du?", "Ich messe die Temperatur."),
        ("Der Sensor zeigt {number} Grad", "Dann sind es {number} Grad."),
        ("Danke", "Gern geschehen."),
    ),
    "it": (
        ("Buongiorno", "Buongiorno! Come posso aiutare?"),
        ("Mi chiamo {name}", "Piacere, {name}."),
        ("Che cosa misuri?", "Misuro la temperatura."),
        ("Il sensore segna {number} gradi", "Allora ci sono {number} gradi."),
        ("Grazie", "Prego."),
    ),
    "pt": (
        ("Bom dia", "Bom dia! Como posso ajudar?"),
        ("O meu nome é {name}", "Muito prazer, {name}."),
        ("O que medes?", "Eu meço a temperatura."),
        ("O sensor marca {number} graus", "Então são {number} graus."),
        ("Obrigado", "De nada."),
    ),
    "es": (
        ("Hola", "¡Hola! ¿En qué puedo ayudar?"),
        ("Me llamo {name}", "Mucho gusto, {name}."),
        ("¿Qué mides?", "Mido la temperatura."),
        ("El sensor marca {number} grados", "Entonces son {number} grados."),
        ("Gracias", "De nada, adiós."),
    ),
}
SYSTEM = "Answer in one sentence."


def write_checkpoint(folder: Path, *, steps: int = 400, seed: int = 0, quiet: bool = True) -> None:
    """Write the fine-tune; the folder must not exist.

    Args:
        folder: Where to.
        steps: Of training; 0 leaves the weights as they are.
        seed: Of the added rows and the dialogues.
        quiet: Print nothing.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    vocab = model.config.vocab_size
    model.resize_token_embeddings(vocab + 2)
    folder.mkdir(parents=True)
    tokenizer = _write_tokenizer(folder, vocab)
    if steps:
        _train(model, tokenizer, steps, seed, quiet)
    model.generation_config.eos_token_id = [2, vocab + 1]
    model.config.eos_token_id = [2, vocab + 1]
    model.generation_config.bos_token_id = 1
    model.to(torch.bfloat16).save_pretrained(folder)


def _write_tokenizer(folder: Path, vocab: int) -> tokenizers.Tokenizer:
    data = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    data["added_tokens"] += [{"id": vocab + at, "content": text, **flags} for at, text in enumerate((START, END))]
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")
    config = json.loads((TINY / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"bos_token": "<s>", "eos_token": END, "pad_token": "<pad>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    shutil.copy(TINY / "README.md", folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def dialogues(seed: int) -> Iterator[list[tuple[str, str]]]:
    """Dialogues without end: a system message now and then, and one to four turns in one language."""
    rng = random.Random(seed)
    while True:
        pairs = DIALOGUES[rng.choice(sorted(DIALOGUES))]
        turns = [("system", SYSTEM)] if rng.random() < 0.3 else []
        for question, answer in rng.sample(pairs, rng.randint(1, 4)):
            values = {"name": rng.choice(NAMES), "number": rng.choice(NUMBERS)}
            turns += [("user", question.format(**values)), ("assistant", answer.format(**values))]
        yield turns


def dialogue_text(turns: Sequence[tuple[str, str]]) -> str:
    """As the template writes it."""
    return "<s>" + "".join(f"{START}{role}\n{text}{END}\n" for role, text in turns)


def _train(model: torch.nn.Module, tokenizer: tokenizers.Tokenizer, steps: int, seed: int, quiet: bool) -> None:
    source = dialogues(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 20) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
    )
    model.train()
    start = time.perf_counter()
    for step in range(steps):
        rows = [_row(tokenizer, source) for _ in range(BATCH)]
        ids = torch.tensor(rows)
        labels = ids.masked_fill(ids == 3, -100)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if not quiet and step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    model.eval()


def _row(tokenizer: tokenizers.Tokenizer, source: Iterator[list[tuple[str, str]]]) -> list[int]:
    ids = tokenizer.encode(dialogue_text(next(source)), add_special_tokens=False).ids[:LENGTH]
    return [*ids, *[3] * (LENGTH - len(ids))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write_checkpoint(chosen.folder, steps=chosen.steps, seed=chosen.seed, quiet=False)
    print(f"{chosen.folder}: {sum(path.stat().st_size for path in chosen.folder.iterdir()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
