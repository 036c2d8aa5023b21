#!/usr/bin/env bash
# Compiles the whole demo and runs its JVM tests without an Android SDK, from packages of Debian, PyPI and npm.
#
#   android_demo/check.sh
#
# PYTHON is the interpreter that has helium-edge installed (default: python3). Downloads are kept in
# HELIUM_EDGE_ANDROID_CACHE (default: ~/.cache/helium-edge/android), about 190 MB are fetched the first time.
# Exit codes: 0 all right, 5 something that is needed is missing (each named), anything else: the check failed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
python="${PYTHON:-python3}"
cache="${HELIUM_EDGE_ANDROID_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/helium-edge/android}"
work="$(mktemp -d "${TMPDIR:-/tmp}/helium-edge-android.XXXXXX")"
vectors=
trap '[[ -z "$vectors" ]] || kill "$vectors" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# What is downloaded and how it is unpacked; another version of this starts a new cache.
kit="$cache/kit-1"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf -- '-- %4d s  %s\n' "$SECONDS" "$*"; }

missing() {
    printf 'missing: %s\n' "$@"
    printf 'The Android demo is not checked.\n'
    exit 5
}

# Debian packages by what shows that they are there.
debian() {
    local wanted=()
    command -v javac >/dev/null || wanted+=(openjdk-17-jdk-headless)
    command -v gcc >/dev/null || wanted+=(gcc libc6-dev)
    command -v npm >/dev/null || wanted+=(npm)
    command -v aapt2 >/dev/null || wanted+=(aapt)
    [[ -e /usr/share/java/junit4.jar ]] || wanted+=(junit4)
    [[ -e /usr/share/android-framework-res/framework-res.apk ]] || wanted+=(android-framework-res)
    ((${#wanted[@]})) || return 0
    local how="apt-get install ${wanted[*]}"
    if ((EUID)) || ! command -v apt-get >/dev/null; then
        missing "Debian packages, which only root can install: $how"
    fi
    say "$how"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${wanted[@]}"; } \
        >"$work/apt.log" 2>&1 || { tail -n 5 "$work/apt.log"; missing "Debian packages: $how"; }
}

# The Kotlin compiler, ONNX Runtime's Java classes and ExecuTorch's, each out of a package that carries them.
downloads() {
    [[ -d "$kit" ]] && return 0
    say "download the Kotlin compiler and the classes of both runtimes"
    local new="$work/kit" got="$work/got"
    mkdir -p "$new" "$got" "$cache"
    local pip=("$python" -m pip download --quiet --no-deps --ignore-requires-python --dest "$got")
    "${pip[@]}" kotlin-jupyter-kernel==0.19.0.944 2>"$work/pip.log" || { tail -n 3 "$work/pip.log"; missing "the PyPI package kotlin-jupyter-kernel"; }
    # A source archive: pip builds its metadata, and the jar lies in it.
    "${pip[@]}" --no-binary pyserini pyserini==2.4.0 2>"$work/pip.log" || { tail -n 3 "$work/pip.log"; missing "the PyPI package pyserini"; }
    (cd "$got" && npm pack --silent react-native-executorch@0.9.3 >/dev/null) || missing "the npm package react-native-executorch"
    (cd "$got" && sha256sum --quiet --check) <tools/downloads.sha256
    "$python" tools/unpack.py "$got" "$new"
    rm -rf "$got"
    mv "$new" "$kit"
}

kotlin() {
    # For the API of Java 8, which is what Android 9 has of it.
    java -Xmx1200m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -cp "$kit/kotlin/compiler.jar:$kit/kotlin/kotlin-reflect.jar" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
        -no-stdlib -no-reflect -Werror -Xjdk-release=8 -jvm-target 1.8 "$@"
}

path() { local IFS=:; printf '%s' "$*"; }

debian
downloads
stdlib="$kit/kotlin/kotlin-stdlib.jar"
runtimes="$kit/ort:$kit/executorch/classes.jar"
out="$work/classes"

# In the background: it needs the other processor core only, and the compiler the first one.
"$python" tools/write_vectors.py "$work/vectors" >"$work/vectors.log" 2>&1 &
vectors=$!

say "compile core"
kotlin -Xexplicit-api=strict -module-name core -cp "$stdlib" -d "$out/core" core/src/main/kotlin
say "compile engine-ort and engine-executorch"
kotlin -Xexplicit-api=strict -module-name engines -cp "$(path "$stdlib" "$out/core" "$runtimes")" -d "$out/engines" \
    engine-ort/src/main/kotlin engine-executorch/src/main/kotlin
# Resources against the framework's own (of Android 10), code against stubs of the few classes that it touches.
say "compile the app"
aapt2 compile --dir app/src/main/res -o "$work/res.zip"
sed 's,<manifest ,&package="dev.heliumedge.app" ,' app/src/main/AndroidManifest.xml >"$work/AndroidManifest.xml"
mkdir -p "$work/gen" "$work/flavours" "$out/android"
aapt2 link -I /usr/share/android-framework-res/framework-res.apk --manifest "$work/AndroidManifest.xml" \
    --min-sdk-version 28 --target-sdk-version 29 --java "$work/gen" -o "$work/resources.apk" "$work/res.zip"
find tools/android-stubs "$work/gen" -name '*.java' >"$work/java.txt"
javac -Xlint:-options --release 8 -d "$out/android" "@$work/java.txt"
# Flavours define the same object: those beside `full` get packages of their own, to be compiled with it.
for flavour in ort executorch; do
    sed "s/^package dev.heliumedge.app/&.$flavour/" "app/src/$flavour/kotlin/dev/heliumedge/app/Engines.kt" >"$work/flavours/$flavour.kt"
done
kotlin -module-name app -cp "$(path "$stdlib" "$out/core" "$out/engines" "$runtimes" "$out/android")" -d "$out/app" \
    app/src/main/kotlin app/src/full/kotlin "$work/flavours"

say "compile the tests"
junit=/usr/share/java/junit4.jar:/usr/share/java/hamcrest-all.jar
classpath="$(path "$stdlib" "$out/core" "$out/engines" "$out/app" "$out/android" "$runtimes" "$junit")"
kotlin -Xfriend-paths="$out/core,$out/engines" -module-name tests -cp "$classpath" -d "$out/tests" \
    core/src/testFixtures/kotlin core/src/test/kotlin engine-ort/src/test/kotlin engine-executorch/src/test/kotlin \
    app/src/test/kotlin

say "ONNX Runtime's Java binding over the library of the Python package"
native="$work/native"
mkdir "$native"
cp "$kit/ort-native/libonnxruntime4j_jni.so" "$native/"
gcc -shared -fPIC -O1 -o "$native/libonnxruntime.so.1.17.0" tools/ort-shim/shim.c \
    -Wl,--version-script=tools/ort-shim/shim.map -Wl,-soname,libonnxruntime.so.1.17.0 -ldl
cp "$native/libonnxruntime.so.1.17.0" "$native/libonnxruntime.so"
ORT_REAL_LIB="$("$python" -c 'import glob, os, onnxruntime as o; print(glob.glob(os.path.dirname(o.__file__) + "/capi/libonnxruntime.so.*")[0])')"
export ORT_REAL_LIB

say "vectors and bundles by the Python package"
wait "$vectors" || { cat "$work/vectors.log"; exit 1; }
vectors=

say "tests"
tests="$(cd "$out/tests" && find . -name '*Test.class' | sed 's,^\./,,; s,/,.,g; s,\.class$,,' | sort)"
# shellcheck disable=SC2086 # one word a class
java -XX:+UseSerialGC -Donnxruntime.native.path="$native" -Dhelium.vectors="$work/vectors" -cp "$(path "$classpath" "$out/tests")" \
    org.junit.runner.JUnitCore $tests
"$python" tools/prompt_caches.py "$work/vectors"
say "the Android demo is right"
