"""Parity documents by hand: helium-tiny as int4 on ONNX Runtime, once as it should be and once with faults."""

from __future__ import annotations

import copy
import math
from typing import Any

from helium_edge.parity.document import all_levels

Document = dict[str, Any]

LANGUAGES = ("en", "fr", "de", "it", "pt", "es")
QUESTIONS = {
    "L0": "Does the artifact hold the integers of the quantized store?",
    "L1": "Does the graph compute what its weights say?",
    "L2": "What does quantization cost?",
    "L3": "What does the user get?",
}
# Mean KLD, top-1, top-1 with near ties, PPL of the original, PPL ratio: measured.
L3_FIGURES = {
    "en": (0.0311261, 0.895954, 0.930636, 29.4265, 1.0229),
    "fr": (0.0370369, 0.872832, 0.930636, 28.0599, 1.05377),
    "de": (0.0353546, 0.813953, 0.872093, 30.3251, 1.03843),
    "it": (0.0346605, 0.901734, 0.942197, 34.2434, 1.07587),
    "pt": (0.0401234, 0.848837, 0.906977, 72.3354, 1.03559),
    "es": (0.0398712, 0.843023, 0.906977, 78.4004, 0.996303),
}


def figures(kld: float, top1: float, decided: float, ppl: float, ratio: float, tokens: int) -> dict[str, Any]:
    """An aggregate whose parts fit each other."""
    root = math.sqrt(tokens)
    rms = 0.31 * math.sqrt(kld)
    values = {
        "kld_median": 0.73 * kld,
        "kld_p99": 5.1 * kld,
        "kld_p999": 7.4 * kld,
        "top1": top1,
        "top1_decided": decided,
        "ppl_reference": ppl,
        "ppl_candidate": ppl * ratio,
        "ppl_ratio": ratio,
        "rms_logit_error": rms,
        "snr_db": -20 * math.log10(rms),
        "rms_delta_p": 0.19 * math.sqrt(kld),
    }
    errors = {
        "kld_median": 0.9 * kld / root,
        "kld_p99": 12 * kld / root,
        "kld_p999": 30 * kld / root,
        "top1": math.sqrt(top1 * (1 - top1)) / root,
        "top1_decided": math.sqrt(decided * (1 - decided)) / root,
        "ppl_reference": 1.9 * ppl / root,
        "ppl_candidate": 1.9 * ppl * ratio / root,
        "ppl_ratio": 1.6 * math.sqrt(kld) / root,
        "rms_logit_error": 0.6 * rms / root,
        "snr_db": 5 / root,
        "rms_delta_p": 0.15 * math.sqrt(kld) / root,
    }
    return {
        "tokens": tokens,
        "nonfinite": 0,
        "kld_mean": kld,
        "kld_mean_se": kld / root,
        **values,
        **{f"{name}_se": value for name, value in errors.items()},
        "kld_max": 9.1 * kld,
        "ambiguous": round((decided - top1) * tokens),
        "max_logit_error": 4.2 * math.sqrt(kld),
    }


def gate(name: str, measured: float | None, limit: float | None, bound: str = "max", se: float = 0) -> Any:
    """One gate, judged."""
    slack = 2 * se
    holds = measured is not None and limit is not None
    holds = holds and (measured <= limit + slack if bound == "max" else measured >= limit - slack)
    return {
        "name": name,
        "measured": measured,
        "standard_error": se,
        "bound": bound,
        "limit": limit,
        "passed": None if limit is None else holds,
    }


def histogram(centre: float, tokens: int) -> Any:
    """Roughly log-normal counts over decades."""
    edges = [10 ** (-10 + 0.25 * step) for step in range(45)]
    density = [math.exp(-(((math.log10(edge) + 0.125 - math.log10(centre)) / 0.55) ** 2)) for edge in edges[:-1]]
    return {"edges": edges, "counts": [round(tokens * value / sum(density)) for value in density]}


def level(name: str, per_language: dict[str, tuple[float, ...]], limits: dict[str, float | None]) -> Any:
    """A level of logits with its gates."""
    tokens = 682
    languages = {key: figures(*values, tokens=tokens) for key, values in per_language.items()}  # type: ignore[misc]
    mean = [sum(values) / len(per_language) for values in zip(*per_language.values(), strict=True)]
    overall = figures(*mean, tokens=tokens * len(languages))  # type: ignore[misc]
    gates = [gate("nonfinite", 0, 0)]
    if name == "L1":
        error = overall["rms_logit_error"]
        gates += [
            gate("median_error", 0.4 * error, limits.get("median_error")),
            gate("worst_error", 3.1 * error, limits.get("worst_error")),
        ]
    else:
        gates += [
            gate("mean_kld", overall["kld_mean"], limits.get("mean_kld"), "max", overall["kld_mean_se"]),
            gate("top1", overall["top1_decided"], limits.get("top1"), "min", overall["top1_decided_se"]),
            gate("ppl_ratio", overall["ppl_ratio"], limits.get("ppl_ratio"), "max", overall["ppl_ratio_se"]),
            gate("max_logit_error", overall["max_logit_error"], limits.get("max_logit_error")),
        ]
    if "kld_beyond_l2" in limits:
        excess = overall["kld_mean"] - 0.03636
        gates.append(gate("kld_beyond_l2", excess, limits["kld_beyond_l2"], "max", 0.0009))
    failures = [
        f"{found['name']} {found['measured']:.6g} is {'above' if found['bound'] == 'max' else 'below'} "
        f"the limit {found['limit']:g}"
        for found in gates
        if found["passed"] is False
    ]
    buckets = [(0, 16), (16, 32), (32, 64), (64, 128), (128, 192), (192, 256)]
    return {
        "question": QUESTIONS[name],
        "passed": not failures,
        "failures": failures,
        "gates": gates,
        "caveat": None,
        "windows": 18,
        "tokens": overall["tokens"],
        "overall": overall,
        "languages": languages,
        "histogram": histogram(0.6 * overall["kld_mean"], overall["tokens"]),
        "by_position": [
            {
                "start": start,
                "end": end,
                "tokens": 18 * (end - start),
                "kld_mean": overall["kld_mean"] * (0.82 + 0.07 * index),
                "kld_mean_se": overall["kld_mean"] / math.sqrt(18 * (end - start)),
            }
            for index, (start, end) in enumerate(buckets)
        ],
        "notes": {"activations": "int8 per block of 32"} if name == "L1" else {},
    }


CHECKS = (
    ("token by token", 2.6e-6, ""),
    ("ragged tails", 3.1e-6, ""),
    ("chunked prefill", 2.8e-6, ""),
    ("prefill equals decode", 2.1e-6, ""),
    ("second conversation", 0.0, ""),
    ("own slots only", 0.0, ""),
    ("full cache", 2.4e-6, ""),
)

GREEDY = (
    ("en", "The device", " measures the temperature of the room and sends it to the phone every minute", None),
    ("fr", "Le capteur", " mesure la température de la pièce et envoie les données au téléphone", 9),
    ("de", "Das Gerät", " misst die Temperatur im Zimmer und sendet sie jede Minute an das Telefon", None),
    ("it", "Il sensore", " misura la temperatura della stanza e invia i dati al telefono", 5),
)


def greedy() -> list[Any]:
    """Samples: two equal, one parting at a near tie, one parting clearly."""
    found = []
    for language, prompt, text, at in GREEDY:
        words = text.split(" ")
        other = text if at is None else " ".join([*words[:at], "tous", "les", "messages", "<b>ici</b>"])
        found.append(
            {
                "language": language,
                "prompt": prompt,
                "reference": text,
                "candidate": other,
                "tokens": 24,
                "first_divergence": at,
                "margin": None if at is None else 0.011 if at == 9 else 0.214,
                "ambiguous": at == 9,
            }
        )
    return found


def passing() -> Document:
    """A run in which all holds."""
    noise = {key: (3.1e-10, 1.0, 1.0, values[3], 1.0000003) for key, values in L3_FIGURES.items()}
    tight = {"median_error": 1e-4, "worst_error": 1e-4}
    budget = {"mean_kld": 0.06, "top1": 0.90, "ppl_ratio": 1.05}
    consistent = {**budget, "kld_beyond_l2": 0.03}
    return {
        "schema": "helium-edge/parity",
        "schema_version": "2.1",
        "passed": True,
        "failures": [],
        "subject": {
            "bundle": "tiny",
            "recipe": "onnx-int4",
            "target": "onnx",
            "runtime": "onnxruntime",
            "dialect": "contrib",
            "checkpoint": "helium-tiny",
            "files": [
                {"path": "weights.bin", "bytes": 4_268_032},
                {"path": "tokenizer.json", "bytes": 781_204},
                {"path": "decoder.onnx", "bytes": 101_377},
                {"path": "prefill.onnx", "bytes": 101_120},
                {"path": "decode.onnx", "bytes": 98_944},
                {"path": "genai.onnx", "bytes": 104_960},
                {"path": "helium-edge.json", "bytes": 21_504},
            ],
            "bytes": 5_477_141,
        },
        "environment": {
            "helium_edge": "0.4.0",
            "python": "3.11.9",
            "platform": "Linux-6.8-x86_64",
            "processor": "x86_64, AVX2, AVX512-VNNI",
            "torch": "2.13.0",
            "transformers": "5.24.0",
            "onnxruntime": "1.28.0",
            "threads": 2,
        },
        "text": {
            "source": "built-in",
            "languages": list(LANGUAGES),
            "windows": 18,
            "tokens": 4092,
            "sha256": "9f2c" * 16,
        },
        "levels": {
            "L0": {
                "question": QUESTIONS["L0"],
                "passed": True,
                "failures": [],
                "tensors": 87,
                "differences": [],
            },
            "L1": level("L1", noise, tight),
            "L2": level("L2", L3_FIGURES, budget),
            "L3": level("L3", {key: (v[0] * 1.002, *v[1:]) for key, v in L3_FIGURES.items()}, consistent),
        },
        "elsewhere": {"arm64": level("L3", L3_FIGURES, consistent)},
        "checks": [
            {"name": name, "measured": measured, "limit": 1e-4, "passed": True, "detail": detail}
            for name, measured, detail in CHECKS
        ],
        "greedy": greedy(),
        "layers": None,
        "oracle": None,
        "baseline": None,
        "cost": {
            "wall": 21.4,
            "forward": {"reference": 6.2, "quantized torch": 6.9, "candidate": 5.1},
            "cached_reference": False,
            "overhead": 0.0897,
        },
    }


def layers() -> Any:
    """The localisation of a fault in layer 3: before it noise, behind it what passes the error on."""
    rows = []
    for phase, layer in ((phase, layer) for phase in ("prefill", "decode") for layer in range(6)):
        for op in ("input_layernorm", "q_proj", "k_proj", "v_proj", "attention", "o_proj", "gate_proj", "up_proj",
                   "down_proj"):  # fmt: skip
            own = 3.2e-2 if (layer, op) == (3, "k_proj") else 2.4e-7 * (1 + 0.3 * layer)
            behind = layer > 3 or (layer == 3 and op not in ("input_layernorm", "q_proj", "v_proj"))
            arrived = 3.2e-2 * (1 + 0.2 * (layer - 3)) if behind else 3.1e-7 * (1 + layer)
            rows.append(
                {
                    "phase": phase,
                    "graph": f"{phase}.onnx",
                    "layer": layer,
                    "op": op,
                    "own_error": own,
                    "own_snr_db": -20 * math.log10(own),
                    "accumulated_error": arrived,
                    "accumulated_snr_db": -20 * math.log10(arrived),
                    "worst_position": 17 if behind else 3,
                    "guilty": (layer, op) == (3, "k_proj"),
                }
            )
    return {"rows": rows, "guilty": {"layer": 3, "op": "k_proj"}, "arithmetic": "int8 per block of 32"}


def failing() -> Document:
    """A run with a fault in one layer: L1 and L3 fail, a cache check fails, the store and the budget hold."""
    document = passing()
    broken = {key: (0.21 + 0.02 * index, 0.71, 0.76, values[3], 1.19) for index, (key, values) in
              enumerate(L3_FIGURES.items())}  # fmt: skip
    tight = {"median_error": 1e-4, "worst_error": 1e-4}
    budget = {"mean_kld": 0.06, "top1": 0.90, "ppl_ratio": 1.05}
    document["levels"]["L1"] = level("L1", broken, tight)
    worse = {key: (values[0] + 0.036, *values[1:]) for key, values in broken.items()}
    document["levels"]["L3"] = level("L3", worse, {**budget, "kld_beyond_l2": 0.03})
    document["levels"]["L3"]["caveat"] = "evaluated by the CoreML interpreter, not by CoreML"
    detail = "131 tokens at once and one by one: relative rms 0.31"
    document["checks"][3] |= {"measured": 0.31, "passed": False, "detail": detail}
    document["layers"] = layers()
    return with_failures(document)


def over_budget() -> Document:
    """A run whose graph is right and whose recipe costs too much."""
    document = passing()
    budget = {"mean_kld": 0.03, "top1": 0.90, "ppl_ratio": 1.05}
    for name in ("L2", "L3"):
        document["levels"][name] = level(name, L3_FIGURES, budget)
    return with_failures(document)


def with_failures(document: Document) -> Document:
    """The same with the lines and the verdict that belong to its parts."""
    found = copy.deepcopy(document)
    lines = [f"{name} {line}" for name, part in all_levels(found).items() for line in part["failures"]]
    lines += [f"cache: {check['name']}: {check['detail']}" for check in found["checks"] if not check["passed"]]
    lines += (found["baseline"] or {}).get("failures", [])
    return {**found, "failures": lines, "passed": not lines}
