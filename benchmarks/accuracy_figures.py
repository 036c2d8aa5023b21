"""Measure bundles and write their figures between the markers of docs/accuracy.md.

    python benchmarks/accuracy_figures.py helium-tiny-int4 helium-tiny-int8

Figures per language are those of `helium-edge parity`; texts are greedy continuations by the first bundle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from helium_edge import LanguageModel, check, load
from helium_edge.bundle import Manifest, open_bundle
from helium_edge.parity import LevelReport, ParityReport
from helium_edge.texts import LANGUAGES

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
PROMPTS = {
    "en": "The sensor",
    "fr": "Les modèles",
    "de": "Das Gerät",
    "it": "Il dispositivo",
    "pt": "Os dados",
    "es": "El dispositivo",
}
NEW_TOKENS = 28


def parity_rows(manifest: Manifest, report: ParityReport) -> list[str]:
    recipe = manifest.quantization.recipe_name
    rows = []
    level = report.level("L3")
    assert isinstance(level, LevelReport)
    for language, found in [*level.languages.items(), ("all", level.overall)]:
        rows.append(
            f"| `{recipe}` | {language} | {found.tokens} | {found.kld_mean:.4f} | {found.top1:.1%} | "
            f"{found.top1_decided:.1%} | {found.ppl_reference:.2f} | {found.ppl_candidate:.2f} | "
            f"{found.ppl_ratio:.4f} |"
        )
    return rows


def size_row(manifest: Manifest) -> str:
    quantization = manifest.quantization
    bundle = sum(entry.bytes for entry in manifest.files)
    weights = next(entry.bytes for entry in manifest.files if entry.path == "weights.bin")
    share = weights / (2 * manifest.model.parameters)
    return (
        f"| `{quantization.recipe_name}` | {bundle / 1e6:.2f} MB | {weights / 1e6:.2f} MB | {share:.0%} | "
        f"{quantization.mean_relative_error:.3f} |"
    )


def text_rows(folder: Path) -> list[str]:
    model = load(folder)
    assert isinstance(model, LanguageModel)
    rows = []
    for language in LANGUAGES:
        prompt = PROMPTS[language]
        text = model.generate(prompt, max_new_tokens=NEW_TOKENS, temperature=0.0)
        line = " ".join(f"**{prompt}**{text}".split())  # a table has no line breaks
        rows.append(f"| {language} | {line} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    folders = parser.parse_args().bundles

    parity, sizes = [], []
    for folder in folders:
        manifest = open_bundle(folder).manifest
        parity += parity_rows(manifest, check(folder))
        sizes.append(size_row(manifest))
    lines = [
        "| recipe | language | tokens | KLD | top-1 | decided | PPL original | PPL exported | PPL ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        *parity,
        "",
        "| recipe | bundle | weights | of bf16 | mean weight error |",
        "|---|---:|---:|---:|---:|",
        *sizes,
        "",
        "| language | prompt and its greedy continuation (int4) |",
        "|---|---|",
        *text_rows(folders[0]),
    ]
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
