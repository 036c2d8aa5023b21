"""Whether APKs are what a release needs: `check_apk.py APK...`.

Their native code is there and aligned to pages of 16 KB, and nothing asks for the network: an archive that is
built in may bring such a permission into the merged manifest.
"""

from __future__ import annotations

import struct
import sys
import zipfile

PAGE = 16384
LOAD = 1
UNWANTED = (
    "android.permission.INTERNET",
    "android.permission.ACCESS_NETWORK_STATE",
    "ai.onnxruntime.TelemetryInitializer",
)


def main(apks: list[str]) -> int:
    """One line for each problem; 1 then."""
    problems = []
    for apk in apks:
        with zipfile.ZipFile(apk) as archive:
            libraries = [entry for entry in archive.infolist() if entry.filename.endswith(".so")]
            for entry in libraries:
                found = alignment(archive.read(entry))
                if found % PAGE:
                    problems.append(f"{apk}: {entry.filename}: segments are aligned to {found} bytes")
                if entry.compress_type == zipfile.ZIP_STORED and data_offset(apk, entry) % PAGE:
                    problems.append(f"{apk}: {entry.filename}: lies at {data_offset(apk, entry)} in the archive")
            if not libraries:
                problems.append(f"{apk}: holds no native code, so that no runtime is in it")
            problems += [f"{apk}: wants {name}" for name in unwanted(archive.read("AndroidManifest.xml"))]
            sys.stdout.write(f"{apk}: {len(libraries)} libraries" + "\n")
    if not apks:
        problems.append("no APK was named")
    sys.stdout.write(("\n".join(problems) or f"all aligned to {PAGE} bytes, none wants the network") + "\n")
    return 1 if problems else 0


def unwanted(manifest: bytes) -> list[str]:
    """What a merged manifest, in its binary form, asks for and must not; its strings are UTF-8 or UTF-16."""
    return [name for name in UNWANTED if any(name.encode(code) in manifest for code in ("utf-8", "utf-16-le"))]


def alignment(library: bytes) -> int:
    """The smallest alignment of a LOAD segment of a 64-bit ELF library."""
    start, size, count = (*struct.unpack_from("<Q", library, 32), *struct.unpack_from("<HH", library, 54))
    headers = [struct.unpack_from("<IIQQQQQQ", library, start + index * size) for index in range(count)]
    return min(header[7] for header in headers if header[0] == LOAD)


def data_offset(apk: str, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin: behind its local header, whose extra field has a length of its own."""
    with open(apk, "rb") as file:
        file.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return entry.header_offset + 30 + int(name) + int(extra)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
