"""`helium-edge bench --adb` with a stand-in for adb: its phone is a folder, its app answers as it is told."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from helium_edge.cli.main import run

from helium_edge import push as transfer
from helium_edge.bench import phone as phone_module
from helium_edge.bench.cases import Settings, plan_cases
from helium_edge.bench.phone import intent
from helium_edge.bench.schema import document_schema as bench_schema
from helium_edge.bundle import read_manifest
from helium_edge.bundle.seal import sealed_json
from tests.unit.bundle.bundles import write_bundle

# The app: started with an intent, it writes FAKE_ANSWER under the name that it was given, after FAKE_POLLS looks.
FAKE_ADB = """#!{python}
import os, re, shlex, subprocess, sys
words = sys.argv[1:]
state = os.environ["FAKE_STATE"]
if words == ["devices"]:
    print("List of devices attached")
    print("ABC123" + chr(9) + "device")
elif words[2] == "exec-in":
    subprocess.run(["sh", "-c", words[3]], input=sys.stdin.buffer.read())
elif words[3].startswith("pm path"):
    print(os.environ.get("FAKE_APP", ""))
elif words[3].startswith("am start"):
    with open(state + ".intent", "w") as file:
        file.write(words[3])
    print(os.environ.get("FAKE_START", "Status: ok"))
elif words[3].startswith("pidof"):
    looks = len(open(state).read()) if os.path.exists(state) else 0
    with open(state, "a") as file:
        file.write(".")
    if looks >= int(os.environ.get("FAKE_POLLS", "1")):
        answer = os.environ.get("FAKE_ANSWER")
        if answer is not None:
            extras = shlex.split(open(state + ".intent").read())
            name = extras[extras.index("benchmark") + 1]
            folder = os.path.join(os.environ["FAKE_FILES"], "bench")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, name + ".json"), "w") as file:
                file.write(answer)
    print("" if "FAKE_DEAD" in os.environ else "4711")
elif words[3].startswith("getprop ro.soc.model"):
    print("SM8650")
elif words[3].startswith("nproc"):
    print("8")
elif words[3].startswith("dumpsys battery"):
    print("Current Battery Service state:")
    print("  USB powered: true")
    print("  level: 81")
elif "df -k" in words[3]:
    print("Filesystem 1K-blocks Used Available Use% Mounted on")
    print("/dev/fuse 100 50 999999 1% /storage/emulated")
else:
    sys.exit(subprocess.run(["sh", "-c", words[3]]).returncode)
"""

ANSWER: dict[str, Any] = {
    "schema": phone_module.SCHEMA,
    "bundle": "tiny",
    "engine": "ONNX Runtime",
    "device": {"threads": 4, "thermal_status": 0},
    "load_ns": 900_000_000,
    "first_ns": 300_000_000,
    "resident_bytes": {"ready": 5000, "full": 9000},
    "results": [
        {"phase": "decode", "context": 0, "tokens": 8, "ns": [400_000_000, 480_000_000]},
        {"phase": "decode", "context": 20, "tokens": 8, "ns": [800_000_000, 800_000_000]},
        {"phase": "prefill", "context": 0, "tokens": 8, "ns": [80_000_000, 100_000_000]},
    ],
}
ARGUMENTS = ("--adb", "--context", "0,20", "--repeats", "2")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The app's folder on the phone."""
    program = tmp_path / "bin" / "adb"
    program.parent.mkdir()
    program.write_text(FAKE_ADB.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "phone's files"
    (folder / "bundles").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_APP", f"package:/data/app/{transfer.APP_ID}/base.apk")
    monkeypatch.setenv("FAKE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("FAKE_FILES", str(folder))
    monkeypatch.setenv("FAKE_ANSWER", json.dumps(ANSWER))
    monkeypatch.setattr(transfer, "BUNDLES", str(folder / "bundles"))
    monkeypatch.setattr(phone_module, "POLL_SECONDS", 0.0)
    return folder


def test_a_bundle_is_pushed_and_measured_there(
    bundle: Path, phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(bundle), *ARGUMENTS, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(json.loads(bench_schema())).validate(data)
    assert (phone / "bundles" / "tiny" / "helium-edge.json").is_file()
    (found,) = data["bundles"]
    shallow, deep, prompt = found["results"]
    assert shallow["ms"]["samples"] == [50.0, 60.0]
    assert (deep["context"], deep["ms"]["median"], deep["tokens_per_second"]) == (20, 100.0, 10.0)
    assert prompt["tokens_per_second"] == pytest.approx(8 / 0.09)
    assert (found["load_ms"]["median"], found["memory"]["full"]) == (900.0, {"resident_bytes": 9000})
    machine = data["machine"]
    assert (machine["processor"], machine["cores"], machine["charging"]) == ("SM8650", 8, True)
    assert data["bandwidth_bytes_per_second"] is None
    assert "bandwidth_share" not in prompt
    assert deep["bandwidth_share"] is None
    started = (tmp_path / "state.intent").read_text()
    assert started.startswith(f"am start -S -W -n {transfer.BENCHMARK_ACTIVITY} --es bundle tiny --es benchmark ")
    assert "--es contexts 0,20 --es prompts 8 --es repeats 2 --es warmup 1 --es steps 8 --es threads 0" in started


def test_the_text_names_the_phone(bundle: Path, phone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(bundle), *ARGUMENTS]) == 0
    text = capsys.readouterr().out
    assert "SM8650, 8 cores" in text
    assert "9.00 kB resident" in text
    assert "GB/s" not in text


def test_no_length_is_an_empty_word(bundle: Path) -> None:
    head = read_manifest(bundle / "helium-edge.json").model_copy(update={"cache": None})
    settings = Settings()
    words = intent("/sdcard/bundles/my topics", "a1", plan_cases([head], settings), settings)
    assert "--es bundle 'my topics' --es benchmark a1 --es contexts '' --es prompts '' --es repeats 10" in words


@pytest.mark.parametrize(
    ("environment", "code", "message"),
    [
        ({"FAKE_APP": ""}, 5, "is not installed on ABC123"),
        ({"FAKE_START": "Error: Activity class does not exist."}, 1, "the app did not start"),
        ({"FAKE_ANSWER": "{}"}, 1, "something else than a benchmark"),
        ({"FAKE_ANSWER": "half a docum"}, 1, "something else than a benchmark"),
        (
            {"FAKE_ANSWER": json.dumps({"schema": phone_module.SCHEMA, "error": {"message": "M", "hint": "H"}})},
            3,
            "on the phone: M",
        ),
        ({"FAKE_DEAD": "1", "FAKE_POLLS": "99"}, 1, "ended before it had measured"),
        ({"FAKE_POLLS": "99"}, 1, "the app runs, and has not answered"),
    ],
)
def test_what_goes_wrong_there_is_said(
    bundle: Path,
    phone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(phone_module, "MOST_POLLS", 9)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(["bench", str(bundle), *ARGUMENTS]) == code
    assert message in capsys.readouterr().err


def test_a_document_written_by_an_app_that_then_ends_counts(
    bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DEAD", "1")
    assert run(["bench", str(bundle), *ARGUMENTS]) == 0


@pytest.mark.parametrize("arguments", [("--static",), ("--compare", "other"), ("--context", "32")])
def test_what_a_phone_cannot_do_is_refused_before_anything_is_sent(
    bundle: Path, phone: Path, arguments: tuple[str, ...]
) -> None:
    assert run(["bench", str(bundle), "--adb", *arguments]) == 2
    assert not list((phone / "bundles").iterdir())


def test_a_program_that_android_cannot_run_is_not_sent(
    bundle: Path, phone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle / "helium-edge.json"
    data = json.loads(path.read_text())
    for graph in data["graphs"]:
        graph["method"] = graph["phase"]
    path.write_text(sealed_json(data))
    assert run(["bench", str(bundle), *ARGUMENTS]) == 2
    assert "no memory for what they return" in capsys.readouterr().err
    assert not list((phone / "bundles").iterdir())


def test_without_adb_the_exit_code_is_5(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run(["bench", str(bundle), "--adb"]) == 5
    assert "adb" in capsys.readouterr().err
