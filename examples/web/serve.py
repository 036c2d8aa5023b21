"""Serves the page with a bundle and onnxruntime-web, on this machine alone.

    python examples/web/serve.py BUNDLE node_modules/onnxruntime-web/dist [--port 8000]

Two headers isolate the page, without which browsers give wasm one thread: any server that sends them will do.
"""

import argparse
import functools
import http.server
from pathlib import Path
from typing import ClassVar

HERE = Path(__file__).resolve().parent
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class Handler(http.server.SimpleHTTPRequestHandler):
    """The page at /, the bundle at /bundle/, the runtime at /ort/."""

    extensions_map: ClassVar = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def __init__(self, *args: object, folders: dict, headers: dict, **options: object) -> None:
        self.folders, self.sent = folders, headers
        super().__init__(*args, directory=str(HERE), **options)

    def translate_path(self, path: str) -> str:
        """Where a path of the address lies; the base class has taken out whatever leads upwards."""
        relative = Path(super().translate_path(path)).relative_to(HERE)
        first, *rest = relative.parts or ("",)
        return str(self.folders.get(first, HERE / first).joinpath(*rest))

    def end_headers(self) -> None:
        """Also with what isolates the page."""
        for name, value in self.sent.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def make_server(
    bundle: Path, ort: Path, port: int = 8000, *, isolated: bool = True
) -> http.server.ThreadingHTTPServer:
    """A server that is to be started; port 0 takes a free one."""
    headers = ISOLATED if isolated else {}
    handler = functools.partial(Handler, folders={"bundle": bundle, "ort": ort}, headers=headers)
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("ort", type=Path, help="the folder dist of the npm package onnxruntime-web")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    print(f"http://127.0.0.1:{options.port}/")
    make_server(options.bundle.resolve(), options.ort.resolve(), options.port).serve_forever()
