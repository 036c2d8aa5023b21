"""Whether the native code of APKs is aligned to pages of 16 KB: `page_size.py APK...`."""

from __future__ import annotations

import struct
import sys
import zipfile

PAGE = 16384
LOAD = 1


def main(apks: list[str]) -> int:
    """One line for each library that is not; 1 then."""
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
            sys.stdout.write(f"{apk}: {len(libraries)} libraries" + "\n")
    sys.stdout.write(("\n".join(problems) or f"all aligned to {PAGE} bytes") + "\n")
    return 1 if problems else 0


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
