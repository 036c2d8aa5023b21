"""The page of examples/web in a browser, and its parts in Node, compared with what the package does."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helium_edge.exporting import ExportRequest, export_all
from helium_edge.recipe import load_recipe
from tests.helpers.chromium import Page, chromium, find_chromium
from tests.helpers.node import node, node_modules

ROOT = Path(__file__).parents[2]
WEB = ROOT / "examples" / "web"
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
_bundles: dict[str, Path] = {}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A recipe's bundle of helium-tiny, made once."""

    def make(recipe: str) -> Path:
        if recipe not in _bundles:
            out = tmp_path_factory.mktemp("web") / "bundle"
            export_all(ExportRequest("helium-tiny", load_recipe(recipe), out, parity=False))
            _bundles[recipe] = out
        return _bundles[recipe]

    return make


@contextmanager
def opened(
    bundle: Path, tmp_path: Path, query: str = "", *, web: Path = WEB, isolated: bool = True, gpu: bool = False,
    width: int = 900, dark: bool = False,
) -> Iterator[Page]:  # fmt: skip
    """The page over a bundle, once it is ready or says why it is not."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    runtime = node_modules("onnxruntime-web") / "onnxruntime-web" / "dist"
    spec = importlib.util.spec_from_file_location("serve", web / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    server = serve.make_server(bundle, runtime, 0, isolated=isolated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = {"gpu": SOFTWARE_GPU} if gpu else {}
    try:
        with chromium(program, tmp_path / "browser", **flags) as page:
            page.open(f"http://127.0.0.1:{server.server_port}/?{query}", width=width, dark=dark)
            wait(page, lambda: status(page).startswith(("Ready", "Cannot")))
            yield page
    finally:
        server.shutdown()
        server.server_close()


def status(page: Page) -> str:
    return str(page.evaluate("document.getElementById('status').textContent"))


def text_of(page: Page, part: str) -> str:
    return str(page.evaluate(f"document.getElementById('{part}').textContent")).replace("\u00a0", " ")


def click(page: Page, part: str) -> None:
    page.evaluate(f"document.getElementById('{part}').click()")


def wait(page: Page, done: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, status(page)
        time.sleep(0.1)


def self_test(page: Page) -> dict[str, Any]:
    click(page, "test")
    failed = "document.getElementById('status').className === 'bad'"
    wait(page, lambda: status(page) == "Ready" or bool(page.evaluate(failed)))
    found: dict[str, Any] = json.loads(page.evaluate("document.documentElement.dataset.result"))
    return found


def broken(tmp_path: Path, before: str, after: str) -> Path:
    """A copy of the page whose module is changed in one place."""
    folder = Path(shutil.copytree(WEB, tmp_path / "broken"))
    text = (folder / "helium.mjs").read_text(encoding="utf-8")
    assert text.count(before) == 1
    (folder / "helium.mjs").write_text(text.replace(before, after), encoding="utf-8")
    return folder


# -- the recorded run


RECIPES = [
    ("web-int4", ""),
    ("onnx-int4-portable", ""),
    pytest.param("onnx-int4", "provider=wasm&threads=1", marks=pytest.mark.full),
    pytest.param("onnx-int4", "static=1", marks=pytest.mark.full),
    pytest.param("onnx-int8", "", marks=pytest.mark.full),
    pytest.param("onnx-int4-portable", "static=1", marks=pytest.mark.full),
    pytest.param("onnx-int4-kv8", "", marks=pytest.mark.full),
    pytest.param("onnx-int4-kv16", "", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("recipe", "query"), RECIPES)
def test_the_golden_ids(recipe: str, query: str, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """Kernels of wasm do not round activations: differences are near ties, within the tolerance of the module."""
    with opened(bundle(recipe), tmp_path, query) as page:
        assert status(page).startswith("Ready"), status(page)
        found = self_test(page)
        assert found["passed"]
        assert found["steps"] == 32
        assert found["same"] >= 29
        assert found["same"] + len(found["nearTies"]) == 32
        assert text_of(page, "verdict").startswith(f"Passed: {found['same']} of 32")


@pytest.mark.full
@pytest.mark.parametrize("build", ["ort.min.mjs", "ort.all.min.mjs", "ort.webgpu.min.mjs", "ort.jspi.min.mjs"])
@pytest.mark.parametrize("recipe", ["web-int4", "onnx-int4-portable"])
def test_every_build(recipe: str, build: str, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """That with wasm alone is what the tests above run on."""
    with opened(bundle(recipe), tmp_path, f"build={build}&provider=wasm") as page:
        assert status(page).startswith("Ready"), status(page)
        assert self_test(page)["passed"]


def test_the_webgpu_build_lacks_an_operator_of_onnx_int4(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """Which is why there is web-int4; when this fails the reason in docs/recipes.md has gone."""
    with opened(bundle("onnx-int4"), tmp_path, "build=ort.webgpu.min.mjs&provider=wasm") as page:
        assert status(page).startswith("Cannot start")
        assert "GatherBlockQuantized" in status(page)


@pytest.mark.full
@pytest.mark.parametrize("recipe", ["web-int4", "onnx-int4-portable"])
def test_webgpu(recipe: str, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """On a GPU in software, which takes a second for a token."""
    with opened(bundle(recipe), tmp_path, gpu=True) as page:
        if text_of(page, "provider") != "WebGPU":
            pytest.skip("this Chromium has no WebGPU in software")
        assert self_test(page)["passed"]


RUN = "const results = await graph.session.run(feeds); // no fetches: nothing is bound"
BOUND = """
    const origin = (name) => feeds[name.replace('present', 'past_key_values')];
    const fetches = graph.outputs.map(({ name, role }) => [name, PRESENT.has(role) ? origin(name) : null]);
    const results = await graph.session.run(feeds, Object.fromEntries(fetches));
    for (const [name, tensor] of fetches) if (tensor) results[name] = tensor;
"""

FAULTS = {
    "one slot off": ("this.position += ids.length;", "this.position += ids.length + 1;"),
    "the cache of the last call is kept": ("this.#cache = present;", ""),
    "a present is bound to its past": (RUN, BOUND),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_host_is_seen(fault: str, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """The last is what follows the rule for other runtimes: wasm writes nothing there, in silence."""
    with opened(bundle("web-int4"), tmp_path, "provider=wasm", web=broken(tmp_path, *FAULTS[fault])) as page:
        found = self_test(page)
        assert not found["passed"]
        assert len(found["wrong"]) > 2
        assert text_of(page, "verdict").startswith("Failed")


# -- the page


def test_text_streams_and_stops(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    with opened(bundle("web-int4"), tmp_path, "provider=wasm") as page:
        page.evaluate("document.getElementById('count').value = 6")
        click(page, "generate")
        wait(page, lambda: status(page).startswith("Done"))
        assert status(page) == "Done after 6 tokens"
        assert text_of(page, "answer").startswith(page.evaluate("document.getElementById('prompt').value"))
        assert text_of(page, "speed").endswith(" tokens/s")
        page.evaluate("document.getElementById('count').value = 900")
        click(page, "generate")
        wait(page, lambda: status(page).startswith("Writing, 3"))
        click(page, "stop")
        wait(page, lambda: status(page).startswith("Stopped"))
        assert int(status(page).split()[2]) < 100
        page.evaluate("document.getElementById('prompt').value = 'one more '.repeat(1000)")
        click(page, "generate")
        wait(page, lambda: "do not fit" in status(page))
        assert page.evaluate("document.getElementById('generate').disabled") is False


def test_nothing_is_asked_of_other_hosts(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    with opened(bundle("web-int4"), tmp_path, "provider=wasm") as page:
        self_test(page)
        origin = page.evaluate("location.origin")
        asked = [url for url in page.requests() if not url.startswith(("data:", "blob:"))]
        assert asked
        assert not [url for url in asked if not url.startswith(f"{origin}/")]
        assert page.complaints() == []


@pytest.mark.parametrize("isolated", [True, False])
def test_threads_need_isolation(isolated: bool, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    with opened(bundle("web-int4"), tmp_path, "provider=wasm", isolated=isolated) as page:
        cores = page.evaluate("navigator.hardwareConcurrency")
        count = min(8, cores) if isolated else 1
        assert text_of(page, "provider") == f"WebAssembly, {count} thread{'' if count == 1 else 's'}"
        assert page.evaluate("crossOriginIsolated") is isolated
        assert self_test(page)["passed"]


def test_a_damaged_file_is_named(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle("web-int4"), tmp_path / "copy"))
    data = bytearray((copy / "weights.bin").read_bytes())
    data[5000] ^= 1
    (copy / "weights.bin").write_bytes(data)
    with opened(copy, tmp_path, "provider=wasm") as page:
        assert status(page) == "Cannot start: weights.bin: damaged; copy the bundle again"


@pytest.mark.parametrize(("width", "dark"), [(900, False), (390, False), (390, True)])
def test_the_page_fits(width: int, dark: bool, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    with opened(bundle("web-int4"), tmp_path, "provider=wasm", width=width, dark=dark) as page:
        self_test(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('#steps li').length") == 32
        unnamed = "[...document.querySelectorAll('button,input,textarea,progress')].filter((each) => "
        unnamed += "!each.textContent.trim() && !each.labels?.length && !each.ariaLabel).length"
        assert page.evaluate(unnamed) == 0
        small = "[...document.querySelectorAll('button,input')].filter((each) => each.offsetHeight < 44).length"
        assert page.evaluate(small) == 0
        (tmp_path / "page.png").write_bytes(page.screenshot())
        assert (tmp_path / "page.png").stat().st_size > 10_000


# -- its parts


COMPARE = """
import { readFileSync } from 'node:fs';
import { Tokenizer } from %s;
const [file, cases] = process.argv.slice(2).map((path) => JSON.parse(readFileSync(path, 'utf8')));
const tokenizer = new Tokenizer(file);
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const wrong = { ids: 0, text: 0, stream: 0 };
for (const { text, ids, decoded } of cases) {
  wrong.ids += !same(tokenizer.encode(text), ids);
  wrong.text += tokenizer.decode(ids) !== decoded;
  const stream = tokenizer.stream();
  const whole = ids.map((id) => stream.push(id)).join('') + stream.end();
  // Bytes that are no UTF-8 are given out before it is known how many of a run there are.
  wrong.stream += !decoded.includes('\\ufffd') && whole.replace(/^ /, '') !== decoded;
}
console.log(JSON.stringify({ ...wrong, cases: cases.length }));
"""


def compare(tmp_path: Path, file: Path, cases: list[dict[str, Any]]) -> dict[str, int]:
    script, data = tmp_path / "compare.mjs", tmp_path / "cases.json"
    script.write_text(COMPARE % json.dumps((WEB / "tokenizer.mjs").as_uri()), encoding="utf-8")
    data.write_text(json.dumps(cases), encoding="utf-8")
    command = [node(), str(script), str(file), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def vectors() -> Any:
    """What writes the vectors of the Kotlin host: both are compared with the tokenizers library."""
    tools = str(ROOT / "android_demo" / "tools")
    sys.path.insert(0, tools)
    try:
        import tokenizer_files

        yield tokenizer_files
    finally:
        sys.path.remove(tools)


@pytest.mark.parametrize("name", ["tiny", "ties", "no byte fallback", "added tokens"])
def test_the_tokenizer_makes_the_ids_of_the_library(name: str, vectors: Any, tmp_path: Path) -> None:
    import texts

    document = json.loads((vectors.DATA / "helium-tiny" / "tokenizer.json").read_text(encoding="utf-8"))
    fixed = texts.fixed_texts(vectors.DATA / "eval-text")
    content, chosen = {
        "tiny": (document, [*fixed, *texts.random_texts(1000, seed=2)]),
        "ties": (vectors.made_tokenizer(document, 3, True), [*fixed[:800], *texts.random_texts(800, seed=3)]),
        "no byte fallback": (
            vectors.made_tokenizer(document, 4, False), [*fixed[:800], *texts.random_texts(800, seed=4)],
        ),
        "added tokens": (
            vectors.with_added_tokens(document), [*vectors.random_added_texts(700, seed=8), *fixed[:300]],
        ),
    }[name]  # fmt: skip
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    found = compare(tmp_path, file, list(vectors.text_cases(file, chosen)))
    assert found == {"ids": 0, "text": 0, "stream": 0, "cases": len(chosen)}
    assert len(chosen) >= 1000


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path, vectors: Any) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(vectors.bpe_tokenizer(**vectors.BPE_KINDS["bpe"])), encoding="utf-8")
    with pytest.raises(AssertionError, match=r'tokenizer\.json: model "BPE" is not known here'):
        compare(tmp_path, file, [])


def test_the_types_are_those_of_the_module(tmp_path: Path) -> None:
    """Every export has a type and the other way round, and TypeScript takes a program that uses them."""
    modules = node_modules("typescript")
    (tmp_path / "node_modules").symlink_to(modules)
    for name in ("helium.mjs", "helium.d.ts", "tokenizer.mjs"):
        shutil.copy(WEB / name, tmp_path)
    (tmp_path / "helium.d.mts").write_text((WEB / "helium.d.ts").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "app.mts").write_text(
        "import * as ort from 'onnxruntime-web';\n"
        "import { argmax, bestProvider, bestThreads, Model } from './helium.mjs';\n"
        "const threads: number = bestThreads();\n"
        "const model = await Model.open(ort, 'bundle/', { provider: await bestProvider() });\n"
        "const stop = new AbortController();\n"
        "for await (const { id, text } of model.generate('x', { signal: stop.signal, pick: argmax })) {\n"
        "  console.log(id?.toFixed(), text.trim(), threads);\n"
        "}\n"
        "const { passed, wrong } = await model.selfTest();\n"
        "console.log(passed ? '' : wrong.join(), model.tokenizer.encode('x')[0], model.position);\n"
        "await model.release();\n",
        encoding="utf-8",
    )
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"]
    command = [node(), str(modules / "typescript" / "bin" / "tsc"), *flags, "app.mts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    script = "import * as m from './helium.mjs'; console.log(JSON.stringify(Object.keys(m).sort()))"
    listing = subprocess.run(
        [node(), "--input-type=module", "-e", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    types = (WEB / "helium.d.ts").read_text(encoding="utf-8")
    exported = json.loads(listing.stdout)
    assert exported == sorted(["Model", "argmax", "bestProvider", "bestThreads"])
    assert all(f" {name}" in types for name in exported)
