#!/usr/bin/env bash
# Shrinks the core and the engine of ONNX Runtime as a release build does, and runs a bundle on what is left: with the
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
"$PYTHON" java8.py "$home" "$shrunk/java8.jar"

shrink() {
    # What Android's own rules keep stands first.
    cat >"$shrunk/$1.pro" <<-RULES
		-keepclasseswithmembernames class * { native <methods>; }
		-keepclassmembers enum * { public static **[] values(); public static ** valueOf(java.lang.String); }
		-keep class dev.heliumedge.shrink.ProbeKt { public static void main(java.lang.String[]); }
		-dontoptimize
		-dontnote
		-dontwarn kotlin.**,org.jetbrains.annotations.**
		# Calls of method handles, whose signature is that of each call.
		-dontwarn ai.onnxruntime.platform.Fp16Conversions
	RULES
    proguard -injars "$work/classes/core:$work/classes/engine-ort:$work/classes/shrink-probe:$kit/ort:$kit/kotlin/kotlin-stdlib.jar(!META-INF/**)" \
        -libraryjars "$shrunk/java8.jar" -outjars "$shrunk/$1.jar" -include "$shrunk/$1.pro" "${@:2}" >"$shrunk/$1.log" 2>&1 ||
        { tail -n 20 "$shrunk/$1.log"; return 1; }
    java -XX:+UseSerialGC -XX:ErrorFile="$shrunk/crash.log" -XX:-CreateCoredumpOnCrash -Donnxruntime.native.path="$native" -cp "$shrunk/$1.jar" dev.heliumedge.shrink.ProbeKt "$work/vectors/bundles/in_place"
}

shrink with -include ../../engine-ort/src/main/resources/META-INF/proguard/helium-edge-ort.pro
if shrink without >"$shrunk/run.log" 2>&1; then
    printf 'the engine runs without its rules too: take them out, or make the probe do more\n'
    exit 1
fi
printf 'and without the rules: %s\n' "$(grep -m1 -oE 'SIG[A-Z]+|[A-Za-z.]+(Exception|Error).*' "$shrunk/run.log")"
