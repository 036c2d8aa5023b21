"""The commands on helium-tiny, from checkpoint to text, as users run them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helium_edge.cli.main import run

from helium_edge.recipe import recipe_text
from tests.unit.cli.commands import start

Cli = Callable[..., tuple[int, str, str]]

SMALL = ("--prefill-len", "16", "--cache-len", "64")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command inside this process: exit code, stdout, stderr."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """helium-tiny in float32, compared with the original."""
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    command = ("export", "helium-tiny", "--recipe", "onnx-fp32", "-o", str(folder), *SMALL)
    done = start(*command, "--threads", "2", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["bundle"] == str(folder)
    assert document["parity"]["levels"]["L3"]["passed"] is True
    assert {entry["path"] for entry in document["files"]} | {"helium-edge.json", "README.md"} == {
        path.name for path in folder.iterdir()
    }
    assert document["bundle_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert done.stderr.splitlines()[-1].startswith(f"next: helium-edge generate {folder} ")
    return folder


def test_export_leaves_nothing_but_the_bundle(bundle: Path) -> None:
    assert [path.name for path in bundle.parent.iterdir()] == ["tiny"]


def test_verify(cli: Cli, bundle: Path) -> None:
    code, out, err = cli("verify", bundle)
    assert code == 0
    assert f"{bundle}: intact" in out
    assert "decoder.onnx" in out
    assert err == f"next: helium-edge parity {bundle}\n"
    document = json.loads(cli("verify", bundle, "--json")[1])
    assert document["verified"] is True
    assert {"helium-edge.json", "weights.bin"} <= {check["subject"] for check in document["checks"]}


def test_inspect_a_bundle(cli: Cli, bundle: Path) -> None:
    code, out, err = cli("inspect", bundle)
    assert "decoder.onnx: any, any number of tokens a call, logits of any of them" in out
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for text in (
        "6.23 million",
        "Graph decode.onnx",
        "past_key_values.0-5.key",
        "1x2x64x64",
        "weights.bin",
        "passed",
    ):
        assert text in out
    assert err == f"next: helium-edge verify {bundle}\n"
    manifest = json.loads(cli("inspect", bundle, "--json")[1])["manifest"]
    written = json.loads((bundle / "helium-edge.json").read_text(encoding="utf-8"))
    del written["manifest_sha256"]  # of the file, not of what it says
    assert manifest == written


def test_inspect_a_checkpoint(cli: Cli) -> None:
    code, out, err = cli("inspect", "helium-tiny")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "parameters:    6.23 million, 12.5 MB in BF16" in out
    assert "model.layers.0-5.self_attn.k_proj.weight" in out
    assert err.startswith("next: helium-edge export helium-tiny ")
    document = json.loads(cli("inspect", "helium-tiny", "--json")[1])
    assert document["parameters"] == 6_229_248
    assert document["config"]["num_key_value_heads"] == 2
    assert len(document["tensors"]) == 3 + 9 * 6


def test_generate_streams_text_and_repeats_itself(cli: Cli, bundle: Path) -> None:
    command = ("generate", bundle, "Les modèles", "--max-new-tokens", "12")
    code, out, err = cli(*command)
    assert code == 0
    assert out.startswith("Les modèles ")
    assert "\ufffd" not in out
    assert "12 tokens" in err
    document = json.loads(cli(*command, "--json")[1])
    assert out == f"Les modèles{document['text']}\n"
    assert len(document["ids"]) == 12
    static = json.loads(cli(*command, "--json", "--static")[1])
    assert static["ids"] == document["ids"]


def test_generate_draws_the_same_text_from_the_same_seed(cli: Cli, bundle: Path) -> None:
    def text(seed: int) -> str:
        options = ("--temperature", "1.0", "--top-k", "40", "--top-p", "0.95", "--seed", seed)
        command = ("generate", bundle, "Edge AI", "--max-new-tokens", "12", "--json", *options)
        return str(json.loads(cli(*command)[1])["text"])

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_generate_stops_when_the_cache_is_full(cli: Cli, bundle: Path) -> None:
    document = json.loads(cli("generate", bundle, "Edge AI", "--max-new-tokens", "1000", "--json")[1])
    stats = document["stats"]
    assert stats["stop_reason"] in ("cache_full", "eos")
    if stats["stop_reason"] == "cache_full":
        assert stats["prompt_tokens"] + stats["new_tokens"] == 64 + 1


def test_parity(cli: Cli, bundle: Path) -> None:
    code, out, err = cli("parity", bundle, "--tokens", "600", "--threads", "2", "--json")
    document = json.loads(out)
    assert code == 0
    assert {name: level["passed"] for name, level in document["parity"]["levels"].items()} == dict.fromkeys(
        ("L0", "L1", "L2", "L3"), True
    )
    assert all(check["passed"] for check in document["parity"]["checks"])
    assert "run original:" in err


def test_export_refuses_a_taken_folder_and_leaves_it(cli: Cli, bundle: Path) -> None:
    before = (bundle / "helium-edge.json").read_bytes()
    code, out, err = cli("export", "helium-tiny", "--recipe", "onnx-int8", "-o", bundle, "--no-parity", *SMALL)
    assert (code, out) == (2, "")
    assert "--force" in err
    assert (bundle / "helium-edge.json").read_bytes() == before


def test_an_export_that_misses_its_gates_publishes_nothing(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "strict.yaml"
    text = recipe_text("onnx-fp32")
    strict = text.replace("mean_kld: 1.0e-7", "mean_kld: 1.0e-30")
    assert strict != text
    recipe.write_text(strict, encoding="utf-8")
    out_folder = tmp_path / "out"
    code, out, err = cli("export", "helium-tiny", "--recipe", recipe, "-o", out_folder, *SMALL, "--json")
    document = json.loads(out)
    assert code == document["error"]["exit_code"] == 4
    assert "mean_kld" in document["error"]["message"]
    assert document["parity"]["levels"]["L3"]["passed"] is False
    assert "FAILED" in err
    assert [path.name for path in tmp_path.iterdir()] == ["strict.yaml"]


def test_a_dry_run_says_how_long_calibration_takes_and_fast_takes_none(cli: Cli) -> None:
    asked = ("export", "helium-tiny", "--recipe", "onnx-int4", "--dry-run")
    code, out, _ = cli(*asked)
    assert code == 0
    assert "calibration:  about" in out
    code, out, err = cli(*asked, "--fast")
    assert "calibration" not in out
    assert err.splitlines()[-1] == "next: helium-edge export helium-tiny --recipe onnx-int4 --fast -o DIR"
    plans = [json.loads(cli(*asked, *flags, "--json")[1])["plan"] for flags in ((), ("--fast",))]
    assert plans[0]["calibration_seconds"] > 0
    assert plans[1]["calibration_seconds"] is None


def test_a_dry_run_writes_nothing_and_needs_no_output(cli: Cli, empty_folder: Path) -> None:
    code, out, err = cli("export", "helium-tiny", "--recipe", "onnx-int4", "--dry-run")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "model.layers.0-5.mlp.down_proj.weight" in out
    assert err == "next: helium-edge export helium-tiny --recipe onnx-int4 -o DIR\n"
    plan = json.loads(cli("export", "helium-tiny", "--recipe", "onnx-int4", "--dry-run", *SMALL, "--json")[1])[
        "plan"
    ]
    assert plan["cache_len"] == 64
    assert len(plan["weights"]) == 2 + 7 * 6
    assert plan["weights"][0]["scheme"] == "int8"
    assert plan["weights"][1]["scheme"] == "int4-g32"
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("flag", ["--no-parity", "--no-run"])
def test_a_plan_without_the_comparison_counts_no_memory_for_it(cli: Cli, flag: str) -> None:
    plan = ("export", "helium-tiny", "--recipe", "onnx-int4", "--dry-run")
    assert "with the comparison" in cli(*plan)[1]
    code, out, err = cli(*plan, flag)
    assert code == 0
    assert "with the comparison" not in out
    assert err == f"next: helium-edge export helium-tiny --recipe onnx-int4 {flag} -o DIR\n"


@pytest.mark.parametrize(
    ("arguments", "expected", "message"),
    [
        (("verify", "nowhere"), 3, "nowhere: no such folder"),
        (("generate", "nowhere", "x"), 3, "nowhere: no such folder"),
        (("parity", "nowhere"), 3, "nowhere: no such folder"),
        (("inspect", "nowhere"), 3, "'nowhere': no such folder"),
        (("export", "nowhere", "--recipe", "onnx-int4", "-o", "x"), 3, "'nowhere': no such folder"),
        (("export", "helium-tiny", "--recipe", "onnx-int4", "--revision", "v1", "-o", "x"), 2, "--revision v1"),
    ],
)
def test_bad_input_is_one_line_and_the_right_exit_code(
    cli: Cli, empty_folder: Path, arguments: tuple[str, ...], expected: int, message: str
) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (expected, "")
    lines = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert lines[0].startswith(f"error: {message}")
    assert len(lines) <= 2
    assert list(empty_folder.iterdir()) == []


def test_a_changed_byte_is_refused_unless_the_user_insists(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    file = copy / "special_tokens_map.json"
    file.write_bytes(file.read_bytes() + b" ")
    for command in (("verify", copy), ("generate", copy, "x")):
        code, out, err = cli(*command)
        assert (code, out) == (3, "")
        assert file.name in err
    assert cli("generate", copy, "x", "--max-new-tokens", "2", "--unverified")[0] == 0


def test_hard_linked_weights_end_in_one_line(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (tmp_path / "second").hardlink_to(copy / "weights.bin")
    for options in ((), ("--unverified",)):
        code, out, err = cli("parity", copy, "--tokens", "50", *options)
        assert (code, out) == (3, "")
        assert "hard link" in err
        assert "internal" not in err
