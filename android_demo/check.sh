#!/usr/bin/env bash
# Compiles the whole demo, shrinks it and runs its JVM tests without an Android SDK, from packages of Debian, npm and PyPI:
# the Kotlin compiler, R8, and the runtimes ExecuTorch and ONNX Runtime are among them.
#
#   android_demo/check.sh
#
# PYTHON is the interpreter that has helium-edge installed (default: python3). Downloads are kept in
# HELIUM_EDGE_ANDROID_CACHE (default: ~/.cache/helium-edge/android), about 230 MB are fetched the first time.
# Exit codes: 0 all right, 5 something that is needed is missing (each named; .ci/run fails then, unless
# HELIUM_EDGE_WITHOUT_ANDROID=1 allows it), anything else: the check failed.
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
kit="$cache/kit-3"
export PYTHON="$python"
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
    command -v g++ >/dev/null || wanted+=(g++ libc6-dev)
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

# The Kotlin compiler, R8 and ONNX Runtime's Java classes, each out of a package that carries them.
downloads() {
    [[ -d "$kit" ]] && return 0
    say "download the Kotlin compiler, R8 and the classes of ONNX Runtime"
    local new="$work/kit" got="$work/got"
    mkdir -p "$new" "$got" "$cache"
    local pip=("$python" -m pip download --quiet --no-deps --ignore-requires-python --dest "$got")
    local package
    for package in kotlin-compiler@2.4.20 node-bundletool@1.0.0; do
        npm pack --silent --pack-destination "$got" "$package" >"$work/npm.log" 2>&1 || { tail -n 3 "$work/npm.log"; missing "the npm package $package"; }
    done
    # A source archive: pip builds its metadata, and the jar lies in it.
    "${pip[@]}" --no-binary pyserini pyserini==2.4.0 2>"$work/pip.log" || { tail -n 3 "$work/pip.log"; missing "the PyPI package pyserini"; }
    (cd "$got" && sha256sum --quiet --check) <tools/downloads.sha256
    "$python" tools/unpack.py "$got" "$new"
    rm -rf "$got"
    mv "$new" "$kit"
}

path() { local IFS=:; printf '%s' "$*"; }

# module NAME API FRIENDS CLASSPATH SOURCE...: plans a module as Gradle compiles it. It sees nothing beside CLASSPATH,
# and `internal` of FRIENDS alone; API is `strict` for a library. A warning is an error. The API is that of Java 8,
# which is what Android 9 has of it.
module() {
    local name="$1" api="$2" friends="$3" classpath="$4"
    shift 4
    printf '%s\n' -module-name "$name" -d "$out/$name" -cp "$(path "$stdlib" "$classpath")" "-Xexplicit-api=$api" \
        -Werror -no-stdlib -no-reflect -Xjdk-release=8 -jvm-target 1.8 >>"$work/modules"
    [[ -z "$friends" ]] || printf '%s\n' "-Xfriend-paths=$friends" >>"$work/modules"
    printf '%s\n' "$@" '' >>"$work/modules"
}

debian
downloads
stdlib="$kit/kotlin/kotlin-stdlib.jar"
out="$work/classes"
junit=/usr/share/java/junit4.jar:/usr/share/java/hamcrest-all.jar

# In the background: it needs the other processor core only, and the compiler the first one.
"$python" tools/write_vectors.py "$work/vectors" >"$work/vectors.log" 2>&1 &
vectors=$!

# Resources against the framework's own (of Android 10); code against stubs of the few classes that it touches.
say "compile resources and stubs"
aapt2 compile --dir app/src/main/res -o "$work/res.zip"
# What Android 12 added to manifests is left out: these resources do not know it.
sed 's,<manifest ,&package="dev.heliumedge.app" ,; /android:dataExtractionRules=/d' app/src/main/AndroidManifest.xml \
    >"$work/AndroidManifest.xml"
mkdir -p "$work/gen" "$work/flavours" "$out/android-stubs" "$out/ort-stubs" "$out/compile"
aapt2 link -I /usr/share/android-framework-res/framework-res.apk --manifest "$work/AndroidManifest.xml" \
    --min-sdk-version 28 --target-sdk-version 29 --java "$work/gen" -o "$work/resources.apk" "$work/res.zip"
# What the Android plugin writes out of app/build.gradle.kts.
version="$(sed -n 's/^executorch = //p' gradle/libs.versions.toml)"
printf 'package dev.heliumedge.app;\n\npublic final class BuildConfig {\n  public static final String EXECUTORCH_VERSION = %s;\n}\n' \
    "$version" >"$work/gen/BuildConfig.java"
find tools/android-stubs "$work/gen" -name '*.java' >"$work/java.txt"
javac -Xlint:-options --release 8 -d "$out/android-stubs" "@$work/java.txt"
javac -Xlint:-options --release 8 -d "$out/ort-stubs" tools/sdk-stubs/onnxruntime/*.java
compiler="$(path "$kit"/kotlin/*.jar)"
javac -d "$out/compile" -cp "$compiler" tools/Compile.java

say "compile the modules, one at a time"
core="$out/core"
fixtures="$(path "$core" "$out/core-fixtures" "$junit")"
module executorch-stubs disable "" "" tools/sdk-stubs/executorch
module core strict "" "" core/src/main/kotlin
module core-fixtures disable "$core" "$(path "$core" "$junit")" core/src/testFixtures/kotlin
module core-test disable "$core" "$fixtures" core/src/test/kotlin
module engine-ort strict "" "$(path "$core" "$out/ort-stubs")" engine-ort/src/main/kotlin
module engine-ort-test disable "$out/engine-ort" "$(path "$fixtures" "$out/ort-stubs" "$out/engine-ort")" engine-ort/src/test/kotlin
module engine-executorch strict "" "$(path "$core" "$out/executorch-stubs")" engine-executorch/src/main/kotlin
module engine-executorch-test disable "$out/engine-executorch" \
    "$(path "$fixtures" "$out/executorch-stubs" "$out/engine-executorch")" engine-executorch/src/test/kotlin
app="$(path "$core" "$out/android-stubs")"
ort="$(path "$out/engine-ort" "$out/ort-stubs")"
executorch="$(path "$out/engine-executorch" "$out/executorch-stubs")"
module app disable "" "$(path "$app" "$ort" "$executorch")" app/src/main/kotlin app/src/full/kotlin
module app-ort disable "" "$(path "$app" "$ort")" app/src/main/kotlin app/src/ort/kotlin
module app-executorch disable "" "$(path "$app" "$executorch")" app/src/main/kotlin app/src/executorch/kotlin
module app-test disable "$out/app" "$(path "$app" "$out/app" "$junit")" app/src/test/kotlin
module shrink-probe disable "" "$(path "$core" "$out/engine-ort" "$out/ort-stubs")" tools/shrink/Probe.kt
java -Xmx1500m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -cp "$(path "$out/compile" "$compiler")" Compile "$work/modules"

say "compare the stubs with what the runtimes publish"
"$python" tools/foreign.py check "$out"

say "ONNX Runtime's Java binding over the library of the Python package"
native="$work/native"
mkdir "$native"
cp "$kit/ort-native/libonnxruntime4j_jni.so" "$native/"
gcc -shared -fPIC -O1 -o "$native/libonnxruntime.so.1.17.0" tools/ort-shim/shim.c \
    -Wl,--version-script=tools/ort-shim/shim.map -Wl,-soname,libonnxruntime.so.1.17.0 -ldl
cp "$native/libonnxruntime.so.1.17.0" "$native/libonnxruntime.so"
ORT_REAL_LIB="$("$python" -c 'import glob, os, onnxruntime as o; print(glob.glob(os.path.dirname(o.__file__) + "/capi/libonnxruntime.so.*")[0])')"
export ORT_REAL_LIB

say "ExecuTorch's binding over the libraries of the Python package"
java_home="$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")"
binding=0
"$python" tools/executorch-jni/build.py "$java_home" "$native/libexecutorch_jni.so" >"$work/binding.log" 2>&1 || binding=$?
((binding != 5)) || missing "$(cat "$work/binding.log")"
((binding == 0)) || { cat "$work/binding.log"; exit 1; }

say "vectors and bundles by the Python package"
wait "$vectors" || { cat "$work/vectors.log"; exit 1; }
vectors=

# The runtime's own classes take the place of its stubs.
say "tests"
tests="$(cd "$out" && find ./*-test -name '*Test.class' | sed 's,^\./[^/]*/,,; s,/,.,g; s,\.class$,,' | sort)"
classpath="$(path "$stdlib" "$fixtures" "$out/core-test" "$out/engine-ort" "$out/engine-ort-test" "$out/engine-executorch" \
    "$out/engine-executorch-test" "$out/executorch-stubs" "$out/app" "$out/app-test" "$out/android-stubs" "$kit/ort")"
# shellcheck disable=SC2086 # one word a class
java -XX:+UseSerialGC -Donnxruntime.native.path="$native" -Dexecutorch.native.path="$native/libexecutorch_jni.so" \
    -Dhelium.vectors="$work/vectors" -cp "$classpath" \
    org.junit.runner.JUnitCore $tests
"$python" tools/prompt_caches.py "$work/vectors"

say "the engine, shrunk by the rules that it brings"
tools/shrink/check.sh "$work" "$kit" "$native"
say "the Android demo is right"
