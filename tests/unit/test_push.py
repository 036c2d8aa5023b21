"""`helium-edge push` with a stand-in for adb: its phone is a folder, its shell is this machine's."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from helium_edge.cli.main import run

from helium_edge import push as transfer
from helium_edge.bundle import MANIFEST_NAME
from helium_edge.errors import MissingToolError
from tests.unit.bundle.bundles import write_bundle

# What it does is in the environment: devices, installed apps, and how much of a file gets through.
FAKE_ADB = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(" ".join(words) + chr(10))
if words == ["devices"]:
    print("List of devices attached")
    for line in os.environ["FAKE_DEVICES"].split(","):
        print(line.replace("=", chr(9)))
elif words[2] == "shell" and words[3].startswith("pm path"):
    print(os.environ.get("FAKE_APP", ""))
elif words[2] == "shell" and words[3].startswith("am start"):
    print("Starting: Intent")
elif words[2] == "shell" and "df -k" in words[3]:
    print("Filesystem 1K-blocks Used Available Use% Mounted on")
    print("/dev/fuse 100 50 " + os.environ.get("FAKE_FREE", "999999") + " 1% /storage/emulated")
elif words[2] == "shell":
    sys.exit(subprocess.run(["sh", "-c", words[3]]).returncode)
elif words[2] == "exec-in":
    data = sys.stdin.buffer.read()
    limit = int(os.environ.get("FAKE_LIMIT", "-1"))
    flip = "FAKE_FLIP" in os.environ
    sent = data if limit < 0 else data[:limit]
    if flip:
        sent = bytes([sent[0] ^ 1]) + sent[1:]
    subprocess.run(["sh", "-c", words[3]], input=sent)
    if 0 <= limit < len(data):
        sys.exit("error: closed")
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "adb"
    program.parent.mkdir()
    program.write_text(FAKE_ADB.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "phone's storage"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_DEVICES", "ABC123=device")
    monkeypatch.setenv("FAKE_APP", f"package:/data/app/{transfer.APP_ID}/base.apk")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "adb.log"))
    monkeypatch.setattr(transfer, "BUNDLES", str(folder))
    return folder


def test_an_adb_that_does_not_answer(bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "DEVICES_SECONDS", 0.01)
    with pytest.raises(MissingToolError, match="adb does not answer within"):
        transfer.Adb()
    monkeypatch.setattr(transfer, "DEVICES_SECONDS", 30.0)
    device = transfer.Adb()
    monkeypatch.setattr(transfer, "SHELL_SECONDS", 0.01)
    with pytest.raises(MissingToolError, match="no answer within"):
        device.shell("sleep 5")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {file["path"]: file["action"] for file in json.loads(capsys.readouterr().out)["files"]}


def test_a_bundle_arrives_whole_and_the_app_opens(
    bundle: Path, phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["push", str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["launched"]
    assert report["device"] == "ABC123"
    assert report["sent_bytes"] == sum(len(data) for data in contents(bundle).values())
    assert contents(phone / "tiny") == contents(bundle)
    log = (tmp_path / "adb.log").read_text().splitlines()
    sent = [line for line in log if " exec-in " in line]
    assert MANIFEST_NAME in sent[-1]
    assert f"am start -n {transfer.BENCHMARK_ACTIVITY} --es bundle tiny" in log[-1]


def test_the_app_makes_its_folder_before_the_first_bundle(
    bundle: Path, phone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BUNDLES", str(phone / "bundles"))
    # The app of the fixture makes nothing, so that the push does not wait for it.
    monkeypatch.setattr(transfer, "_FOLDER_SECONDS", 0)
    assert run(["push", str(bundle)]) == 0
    log = (tmp_path / "adb.log").read_text().splitlines()
    started = next(index for index, line in enumerate(log) if f"am start -W -n {transfer.ACTIVITY}" in line)
    assert started < next(index for index, line in enumerate(log) if "mkdir -p" in line)
    assert contents(phone / "bundles" / "tiny") == contents(bundle)
    assert run(["push", str(bundle)]) == 0
    assert sum("am start -W" in line for line in (tmp_path / "adb.log").read_text().splitlines()) == 1


def test_what_is_there_is_left_and_what_changed_is_sent(
    bundle: Path, phone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["push", str(bundle), "--json"]) == 0
    capsys.readouterr()
    assert run(["push", str(bundle), "--json"]) == 0
    assert set(states(capsys).values()) == {"there"}
    damaged = phone / "tiny" / "tokenizer.json"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    (phone / "tiny" / "config.json").unlink()
    assert run(["push", str(bundle), "--json"]) == 0
    found = states(capsys)
    assert {path for path, action in found.items() if action == "send"} == {"tokenizer.json", "config.json"}
    assert contents(phone / "tiny") == contents(bundle)


def test_a_transfer_that_was_cut_off_goes_on(
    bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_LIMIT", "40")
    assert run(["push", str(bundle)]) == 5
    assert "it goes on" in capsys.readouterr().err
    assert MANIFEST_NAME not in contents(phone / "tiny")
    monkeypatch.delenv("FAKE_LIMIT")
    assert run(["push", str(bundle), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    resumed = [file for file in files if file["action"] == "resume"]
    assert len(resumed) == 1
    assert resumed[0]["remaining_bytes"] == resumed[0]["bytes"] - 40
    assert contents(phone / "tiny") == contents(bundle)


def test_a_beginning_of_another_file_is_sent_anew(
    bundle: Path, phone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (phone / "tiny").mkdir()
    (phone / "tiny" / "decode.onnx.part").write_bytes(b"of another bundle")
    assert run(["push", str(bundle), "--json"]) == 0
    assert set(states(capsys).values()) == {"send"}
    assert contents(phone / "tiny") == contents(bundle)


def test_a_file_that_arrives_changed_is_removed(
    bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FLIP", "1")
    assert run(["push", str(bundle)]) == 3
    assert "sha256" in capsys.readouterr().err
    assert contents(phone / "tiny") == {}


def test_a_dry_run_sends_nothing_and_needs_no_phone(
    bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["push", str(bundle), "--dry-run", "--json"]) == 0
    assert set(states(capsys).values()) == {"send"}
    assert contents(phone) == {}
    monkeypatch.setenv("PATH", "")
    assert run(["push", str(bundle), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "to send" in shown.out
    assert "not known" in shown.err


@pytest.mark.parametrize(
    ("devices", "options", "code", "words"),
    [
        ("", [], 2, "no device is connected"),
        ("A=unauthorized", [], 2, "allow USB debugging"),
        ("A=device,B=device", [], 2, "--serial A | B"),
        ("A=device,B=device", ["--serial", "C"], 2, "connected: A, B"),
        ("A=device,B=device", ["--serial", "B"], 0, "B"),
        ("A=device", ["--name", "../x"], 2, "no folder name"),
    ],
)
def test_the_device_must_be_clear(
    devices: str, options: list[str], code: int, words: str,
    bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FAKE_DEVICES", devices)
    assert run(["push", str(bundle), *options]) == code
    shown = capsys.readouterr()
    assert words in shown.out + shown.err


def test_too_little_space_is_said_before_anything_is_sent(
    bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FREE", "0")
    assert run(["push", str(bundle)]) == 6
    assert "0 bytes free" in capsys.readouterr().err
    assert contents(phone) == {}


def test_without_adb_and_without_the_app(
    bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_APP", "")
    assert run(["push", str(bundle)]) == 0
    assert "not installed" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert run(["push", str(bundle)]) == 5
    assert "apt-get install adb" in capsys.readouterr().err


def test_a_damaged_bundle_is_not_sent(bundle: Path, phone: Path) -> None:
    (bundle / "tokenizer.json").write_text("[]")
    assert run(["push", str(bundle)]) == 3
    assert contents(phone) == {}
