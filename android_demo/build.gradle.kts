plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.kotlin.jvm) apply false
}

// The tests compare with what the Python package computes:
//   python tools/write_vectors.py FOLDER && ./gradlew test -PheliumVectors=FOLDER
subprojects {
    tasks.withType<Test>().configureEach {
        environment("ORT_DISABLE_TELEMETRY", "1") // Java's library sends it on Linux too
        val vectors = providers.gradleProperty("heliumVectors")
        if (vectors.isPresent) systemProperty("helium.vectors", vectors.get())
    }
}
