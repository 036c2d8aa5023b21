#!/usr/bin/env bash
# Shrinks the core and the engine of ONNX Runtime by R8 as a release build does, and runs a bundle on what is left: with the
# rules that the engine brings it must run, and without them it must not, or nobody needs them: the native half looks
# for classes that have other names then, and ends the process.
#
#   check.sh WORK KIT NATIVE    folders of ../../check.sh, which calls this
set -euo pipefail

work="$1" kit="$2" native="$3"
cd "$(dirname "${BASH_SOURCE[0]}")"
shrunk="$work/shrunk"
mkdir "$shrunk"
home="$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")"
for module in core engine-ort shrink-probe; do jar cf "$shrunk/$module.jar" -C "$work/classes/$module" .; done
jar cf "$shrunk/ort.jar" -C "$kit/ort" .

# What Android's own rules keep stands first. Full mode, with optimisation: what the Gradle plugin asks for.
cat >"$shrunk/android.pro" <<-RULES
	-keepclasseswithmembernames,includedescriptorclasses class * { native <methods>; }
	-keepclassmembers enum * { public static **[] values(); public static ** valueOf(java.lang.String); }
	-keep class dev.heliumedge.shrink.ProbeKt { public static void main(java.lang.String[]); }
	-dontwarn kotlin.**,org.jetbrains.annotations.**
RULES

shrink() {
    local rules=(--pg-conf "$shrunk/android.pro") file
    for file in "${@:2}"; do rules+=(--pg-conf "$file"); done
    java -Xmx1g -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$kit/r8.jar" com.android.tools.r8.R8 --release --classfile \
        --lib "$home" --output "$shrunk/$1.jar" "${rules[@]}" \
        "$shrunk"/{core,engine-ort,shrink-probe,ort}.jar "$kit/kotlin/kotlin-stdlib.jar" >"$shrunk/$1.log" 2>&1 ||
        { tail -n 20 "$shrunk/$1.log"; return 1; }
    java -XX:+UseSerialGC -XX:ErrorFile="$shrunk/crash.log" -XX:-CreateCoredumpOnCrash -Donnxruntime.native.path="$native" -cp "$shrunk/$1.jar" dev.heliumedge.shrink.ProbeKt "$work/vectors/bundles/in_place"
}

shrink with ../../engine-ort/src/main/resources/META-INF/proguard/helium-edge-ort.pro
if shrink without >"$shrunk/run.log" 2>&1; then
    printf 'the engine runs without its rules too: take them out, or make the probe do more\n'
    exit 1
fi
# R8 itself must not be what failed.
[[ -e "$shrunk/without.jar" ]] || { cat "$shrunk/run.log"; exit 1; }
printf 'and without the rules: %s\n' "$(grep -m1 -oE 'SIG[A-Z]+|[A-Za-z.]+(Exception|Error).*' "$shrunk/run.log")"
