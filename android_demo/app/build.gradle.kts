import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.application)
}

android {
    namespace = "dev.heliumedge.app"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = "dev.heliumedge.app"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = "0.1.0"
        // ExecuTorch's binding does not tell its own version, and older ones cannot run newer programs.
        buildConfigField("String", "EXECUTORCH_VERSION", "\"${libs.versions.executorch.get()}\"")
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }

    // One runtime, or both: each adds some megabytes of native code.
    flavorDimensions += "runtime"
    productFlavors {
        create("ort") { dimension = "runtime" }
        create("executorch") { dimension = "runtime" }
        create("full") { dimension = "runtime" }
    }

    buildTypes {
        release {
            // The rules come with the engines and with ExecuTorch's archive: none of the app's own are needed.
            isMinifyEnabled = true
            isShrinkResources = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"))
            // So that a minified build can be tried; a release is signed with a key of its own.
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    buildFeatures {
        buildConfig = true
    }

    androidResources {
        localeFilters += listOf("en", "fr", "de", "it", "pt", "es")
    }

    lint {
        warningsAsErrors = false
        abortOnError = true
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    packaging {
        // Both runtimes may bring the C++ library.
        jniLibs.pickFirsts += "**/libc++_shared.so"
    }
}

kotlin {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_1_8
    }
}

dependencies {
    implementation(project(":core"))
    for (flavor in listOf("ort", "full")) {
        add("${flavor}Implementation", project(":engine-ort"))
        add("${flavor}Implementation", libs.onnxruntime.android)
    }
    for (flavor in listOf("executorch", "full")) {
        add("${flavor}Implementation", project(":engine-executorch"))
    }
    testImplementation(libs.junit)
}
