"""android_demo/tools/foreign.py: a stub that is not as the runtime publishes it is found."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "android_demo" / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"android_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = tool("foreign")
    shutil.copytree(TOOLS / "sdk-stubs", tmp_path / "stubs")
    monkeypatch.setattr(module, "STUBS", tmp_path / "stubs")
    return module


def test_the_stubs_are_as_published(foreign: ModuleType) -> None:
    for runtime in foreign.RUNTIMES:
        assert len(foreign.stubbed(runtime)) > 30
        assert foreign.stubbed(runtime) == foreign.published(runtime)


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        (
            "executorch/EValue.kt",
            "val isInt: Boolean\n        get() =",
            "fun isInt(): Boolean =",
            "fun isInt(): Boolean",
        ),
        (
            "executorch/Module.kt",
            "numThreads: Int = 0",
            "numThreads: Long = 0",
            "fun load(String?, Int =, Long =)",
        ),
        ("executorch/Module.kt", "vararg inputs", "inputs", "fun execute(String, EValue)"),
        ("executorch/Tensor.kt", "fun numel(): Long", "fun numel(): Int", "fun numel(): Int"),
        ("executorch/Module.kt", "open fun loadMethod", "open fun prepare", "fun prepare(String)"),
        (
            "onnxruntime/OrtEnvironment.java",
            "String modelPath",
            "java.io.File modelPath",
            "createSession(java.io.File",
        ),
        ("onnxruntime/OrtSession.java", "getInputInfo() throws OrtException", "getInputInfo()", "getInputInfo()"),
        ("onnxruntime/OrtException.java", "ORT_OK,", "ORT_FINE,", "ORT_FINE"),
        (
            "onnxruntime/OnnxTensor.java",
            "public static OnnxTensor",
            "public OnnxTensor",
            "OnnxTensor createTensor",
        ),
    ],
)
def test_a_stub_that_differs_is_found(foreign: ModuleType, file: str, old: str, new: str, found: str) -> None:
    path = foreign.STUBS / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    runtime = file.partition("/")[0]
    assert any(found in line for line in foreign.stubbed(runtime) - foreign.published(runtime))
    assert any("which is not what is published" in line for line in foreign.check(foreign.STUBS))


def test_published_sources_are_read_as_the_stubs_are(foreign: ModuleType, tmp_path: Path) -> None:
    # As the runtime's own sources are written: annotations, breaks, defaults, private members, bodies.
    source = tmp_path / "EValue.kt"
    source.write_text(
        """
        package org.pytorch.executorch
        /** fun notThis(): Int */
        @Experimental
        @DoNotStrip
        class EValue
        @DoNotStrip
        private constructor(
            // JNI reads it
            @JvmField @DoNotStrip val mTypeCode: Int
        ) : Closeable {
          private val names = arrayOf("fun nor(): This")
          val isInt: Boolean
            @DoNotStrip get() = 4 == mTypeCode
          @DoNotStrip
          fun toInt(): Long {
            val local = 3
            return 1
          }
          companion object {
            @JvmStatic
            @JvmOverloads
            fun from(
                value: String?,
                mode: Int = 0,
            ): EValue = EValue(1).also { it.x = 1 }
          }
        }
        """,
        encoding="utf-8",
    )
    expected = {
        "val mTypeCode: Int",
        "val isInt: Boolean",
        "fun toInt(): Long",
        "Companion.fun from(String?, Int =): EValue",
    }
    assert set(foreign.declarations(source)) == {f"EValue.{line}" for line in expected}


def test_the_emulator_script_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a screen that shows all it waits for: its patterns compile, and what it orders is what the app takes."""
    emulator = tool("emulator")
    views = {
        "facts": "chat-onnx-int4 on ONNX Runtime, on ExecuTorch; chat was loaded last",
        "output": "choices as recorded on ONNX Runtime, on ExecuTorch; The device phone-bench Model: x You: Hello",
        "stats": "12 tokens/s", "prompt": "Hello", "open": "Settings Einstellungen", "settings": "", "report": "",
        "about": "",
    } | dict.fromkeys(("self_test", "run", "chat", "edit", "import_bundle"), "")  # fmt: skip
    nodes = [
        f'<node text="{text}" resource-id="{emulator.APP}:id/{view}" enabled="true" bounds="[0,0][8,8]">'
        for view, text in views.items()
    ]
    words = [
        "tiny, 5 MB",
        "Seed",
        "What you want to add",
        "Licence",
        "Speichern",
        "imported",
        "USE THIS FOLDER",
        "Allow",
        "Settings",
        "Einstellungen",
        "Downloads",
        "Hello",
    ]
    nodes += [f'<node text="{word}" package="com.android.launcher" bounds="[0,0][8,8]">' for word in words]
    shown = '<hierarchy rotation="1"><hierarchy rotation="0">' + "".join(nodes)
    ordered: list[tuple[str, ...]] = []
    monkeypatch.setattr(emulator, "screen", lambda: shown)
    monkeypatch.setattr(emulator, "adb", lambda *words, check=True: ordered.append(words) or "")
    monkeypatch.setattr(emulator, "host", lambda *words: ordered.append(("helium-edge", *words)))
    monkeypatch.setattr(emulator, "picture", lambda: b"")
    monkeypatch.setattr(emulator.time, "sleep", lambda _: None)
    emulator.main("full.apk", "small.apk", "tiny", "chat", "pte", str(tmp_path / "pictures"))
    assert ("install", "-r", "small.apk") in ordered
    assert len(list((tmp_path / "pictures").iterdir())) > 20
    shown = shown.replace("choices as recorded", "failed")
    monkeypatch.setattr(emulator, "WAIT_SECONDS", 0.0)
    with pytest.raises(SystemExit, match="never showed"):
        emulator.self_test(tmp_path / "pictures", "tiny", "ONNX Runtime")


def test_an_apk_that_no_release_may_be_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = tool("check_apk")

    def library(*alignments: int) -> bytes:
        header = struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF", 3, 183, 1, 0, 64, 0, 0, 64, 56, len(alignments), 0, 0, 0
        )
        segments = [struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, value) for value in alignments]
        return header + b"".join(segments)

    def built(name: str, manifest: bytes, *alignments: int) -> str:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("AndroidManifest.xml", manifest)
            if alignments:
                archive.writestr("lib/arm64-v8a/lib.so", library(*alignments))
        return str(tmp_path / name)

    network = "android.permission.INTERNET"
    assert check.main([built("right", b"", 16384, 65536)]) == 0
    for name, manifest, alignments, problem in (
        ("page", b"", (16384, 4096), "4096"),
        ("empty", b"", (), "no native code"),
        ("utf8", network.encode(), (16384,), network),
        ("utf16", network.encode("utf-16-le"), (16384,), network),
    ):
        assert check.main([built(name, manifest, *alignments)]) == 1
        assert problem in capsys.readouterr().out
    assert check.main([]) == 1
