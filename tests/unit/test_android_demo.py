"""What of android_demo/ can be checked as text; android_demo/check.sh compiles it and runs its tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helium_edge import push
from helium_edge.bundle import MANIFEST_NAME
from helium_edge.bundle.graph_sections import GraphPhase
from helium_edge.signature import Role

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "android_demo"
ANDROID = "{http://schemas.android.com/apk/res/android}"
TOOLS = "{http://schemas.android.com/tools}"
CATALOG = (DEMO / "gradle" / "libs.versions.toml").read_text(encoding="utf-8")
KOTLIN = sorted(DEMO.rglob("src/**/*.kt"))
MANIFEST = ElementTree.parse(DEMO / "app" / "src" / "main" / "AndroidManifest.xml").getroot()

# What a module may import, besides Kotlin and Java.
ALLOWED = {
    "core": ("dev.heliumedge.core", "org.junit"),
    "engine-ort": ("dev.heliumedge.core", "ai.onnxruntime", "org.junit"),
    "engine-executorch": ("dev.heliumedge.core", "org.pytorch.executorch", "org.junit"),
    "app": ("dev.heliumedge", "android", "org.junit"),
}


def section(name: str) -> dict[str, str]:
    """Keys of a section of the catalog, with what stands behind them; Python 3.10 has no reader of TOML."""
    body = CATALOG.split(f"[{name}]\n")[1].split("\n[")[0]
    return dict(re.findall(r"^([\w-]+) = (.+)$", body, re.MULTILINE))


VERSIONS = {name: value.strip('"') for name, value in section("versions").items()}


def name_of(path: Path) -> str:
    return path.relative_to(DEMO).as_posix()


def test_the_sources_are_found() -> None:
    modules = {name_of(path).split("/")[0] for path in KOTLIN}
    assert modules == set(ALLOWED)


@pytest.mark.parametrize("path", KOTLIN, ids=name_of)
def test_modules_import_what_they_may(path: Path) -> None:
    allowed = (*ALLOWED[name_of(path).split("/")[0]], "java", "kotlin")
    imports = re.findall(r"^import ([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in imports if not name.startswith(tuple(f"{prefix}." for prefix in allowed))] == []


@pytest.mark.parametrize("path", KOTLIN, ids=name_of)
def test_no_kotlin_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_app_may_keep_an_import_alive_and_nothing_else() -> None:
    asked, removed = (
        {
            element.attrib[f"{ANDROID}name"].rpartition(".")[2]
            for element in MANIFEST.iter("uses-permission")
            if (element.get(f"{TOOLS}node") == "remove") is wanted
        }
        for wanted in (False, True)
    )
    # Those that archives bring: ONNX Runtime's, for its telemetry, from 1.29 on.
    assert removed == {"INTERNET", "ACCESS_NETWORK_STATE"}
    assert [element.get(f"{TOOLS}node") for element in MANIFEST.iter("provider")] == ["remove"]
    assert asked == {"FOREGROUND_SERVICE", "FOREGROUND_SERVICE_DATA_SYNC", "POST_NOTIFICATIONS", "WAKE_LOCK"}


def test_only_the_shell_gives_orders() -> None:
    alias = next(MANIFEST.iter("activity-alias"))
    assert alias.attrib[f"{ANDROID}permission"] == "android.permission.DUMP"
    assert f"{push.APP_ID}/{alias.attrib[f'{ANDROID}name']}" == push.BENCHMARK_ACTIVITY
    code = (DEMO / "app/src/main/kotlin/dev/heliumedge/app/Order.kt").read_text(encoding="utf-8")
    assert f'"{push.BENCHMARK_ACTIVITY.replace("/", "")}"' in code


def test_every_language_says_everything_with_the_same_values() -> None:
    def values(folder: str) -> dict[str, list[str]]:
        return {name: sorted(re.findall(r"%\d?\$?[.\d]*[dfs%]", text)) for name, text in texts_of(folder).items()}

    english = values("values")
    assert len(english) > 150
    for language in ("fr", "de", "it", "pt", "es"):
        assert values(f"values-{language}") == english, language


def texts_of(folder: str) -> dict[str, str]:
    """The texts of a language that are to be translated, by name, without the escapes of Android."""
    files = (DEMO / "app/src/main/res" / folder).glob("*s.xml")
    entries = [entry for file in files for entry in ElementTree.parse(file).getroot().iter("string")]
    kept = {str(entry.get("name")): entry.text or "" for entry in entries if entry.get("translatable") != "false"}
    return {name: re.sub(r"\\(['\"\\])", r"\1", text) for name, text in kept.items()}


def test_the_app_says_each_phrase_of_the_core() -> None:
    source = (DEMO / "core/src/main/kotlin/dev/heliumedge/core/Phrase.kt").read_text(encoding="utf-8")
    found = re.findall(r'^    ([A-Z_]+)\("(.+)"\),$', source, re.MULTILINE)
    phrases = {name: re.sub(r'\\(["$])', r"\1", text) for name, text in found}
    said = {name: text for name, text in texts_of("values").items() if name.startswith("say_")}
    assert len(phrases) > 80
    assert said == {f"say_{name.lower()}": text[0].upper() + text[1:] for name, text in phrases.items()}
    mapped = (DEMO / "app/src/main/kotlin/dev/heliumedge/app/Phrases.kt").read_text(encoding="utf-8")
    assert re.findall(r"Phrase\.(\w+) -> R\.string\.(\w+)", mapped) == [
        (name, f"say_{name.lower()}") for name in phrases
    ]
    # A phrase that nothing says would be translated for nobody.
    code = "".join(path.read_text(encoding="utf-8") for path in KOTLIN if path.name != "Phrases.kt")
    assert [name for name in phrases if not re.search(rf"Phrase\.{name}\b", code)] == []


def test_the_manifest_names_what_there_is() -> None:
    activities = [element.attrib[f"{ANDROID}name"] for element in MANIFEST.iter("activity")]
    sources = DEMO / "app" / "src" / "main" / "kotlin" / "dev" / "heliumedge" / "app"
    assert activities
    assert all((sources / f"{activity.removeprefix('.')}.kt").is_file() for activity in activities)
    assert f"{push.APP_ID}/{activities[0]}" == push.ACTIVITY
    build = (DEMO / "app" / "build.gradle.kts").read_text(encoding="utf-8")
    assert f'applicationId = "{push.APP_ID}"' in build
    assert push.BUNDLES.endswith(f"/{push.APP_ID}/files/bundles")


def test_every_resource_of_the_code_exists() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (DEMO / "app").rglob("*.kt"))
    layouts = "".join(path.read_text(encoding="utf-8") for path in (DEMO / "app").rglob("layout/*.xml"))
    resources = (DEMO / "app/src/main/res/values").glob("*s.xml")
    strings = "".join(path.read_text(encoding="utf-8") for path in resources)
    assert set(re.findall(r"R\.id\.(\w+)", code)) == set(re.findall(r'android:id="@\+?id/(\w+)"', layouts))
    defined = set(re.findall(r'<string name="(\w+)"', strings))
    manifest = (DEMO / "app/src/main/AndroidManifest.xml").read_text(encoding="utf-8")
    used = re.findall(r"R\.string\.(\w+)|@string/(\w+)", code + layouts + manifest)
    assert {first or second for first, second in used} == defined


def test_every_alias_of_the_catalog_is_defined_and_used() -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in DEMO.rglob("*.gradle.kts"))
    used = {name.removesuffix(".get") for name in re.findall(r"\blibs\.([\w.]+)", scripts)}
    defined = {name.replace("-", ".") for name in section("libraries")}
    defined |= {f"plugins.{name.replace('-', '.')}" for name in section("plugins")}
    assert {name for name in used if not name.startswith("versions.")} == defined
    referenced = set(re.findall(r'version\.ref = "(\w+)"', CATALOG))
    assert set(VERSIONS) == referenced | {name[9:] for name in used if name.startswith("versions.")}


def test_versions_agree_everywhere() -> None:
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "android.yml").read_text(encoding="utf-8")
    wrapper = (DEMO / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text(encoding="utf-8")
    gradle = re.findall(r"gradle-([\d.]+)-bin", wrapper)
    assert re.findall(r'gradle-version: "([\d.]+)"', workflow) == gradle
    assert f"Gradle {gradle[0]}" in readme
    words = {"agp": "Android Gradle plugin", "kotlin": "Kotlin", "executorch": "ExecuTorch", "minSdk": "API"}
    for name, before in {**words, "compileSdk": "platform", "onnxruntime": "ONNX Runtime"}.items():
        assert f"{before} {VERSIONS[name]}" in readme.replace("\n", " ")


def test_nothing_binary_is_kept() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=DEMO, capture_output=True, check=False).stdout
    files = [DEMO / name for name in listed.decode("utf-8").split("\0") if name]
    assert [name_of(path) for path in files if path.is_file() and b"\0" in path.read_bytes()] == []


def test_links_of_the_readme_resolve() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", (DEMO / "README.md").read_text(encoding="utf-8"))
    assert [target for target in targets if not (DEMO / target).exists()] == []


def test_the_contract_has_the_same_names_on_both_sides() -> None:
    source = (DEMO / "core/src/main/kotlin/dev/heliumedge/core/Manifest.kt").read_text(encoding="utf-8")
    names = set(re.findall(r'[A-Z_0-9]+\("(\w+)"', source))
    # onnxruntime-genai's own input is in no graph that the manifest lists.
    roles = set(Role.__args__) - {"attention_mask"}  # type: ignore[attr-defined]
    assert roles | set(GraphPhase.__args__) <= names  # type: ignore[attr-defined]
    assert f'MANIFEST_NAME: String = "{MANIFEST_NAME}"' in source
