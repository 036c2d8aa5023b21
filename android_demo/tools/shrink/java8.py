"""The classes of Java 8 as ProGuard 6 reads them, out of a newer JDK: `java8.py JAVA_HOME JAR`.

The JDK keeps the signatures of earlier releases in `lib/ct.sym`, in folders whose names list the releases.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

JAVA_8 = b"\x00\x00\x00\x34"


def main(home: Path, jar: Path) -> None:
    with zipfile.ZipFile(home / "lib" / "ct.sym") as symbols, zipfile.ZipFile(jar, "w") as out:
        for name in symbols.namelist():
            releases, _, path = name.partition("/")
            # From JDK 12 on there is a folder for each module between.
            path = path if path.startswith(("java/", "javax/")) else path.partition("/")[2]
            if "8" in releases and path.startswith(("java/", "javax/")) and path.endswith(".sig"):
                data = symbols.read(name)
                out.writestr(path.removesuffix(".sig") + ".class", data[:4] + JAVA_8 + data[8:])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
