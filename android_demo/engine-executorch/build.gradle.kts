import org.jetbrains.kotlin.gradle.dsl.JvmTarget

// An Android library, because ExecuTorch's classes come in an archive for Android only.
plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "dev.heliumedge.executorch"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
}

kotlin {
    explicitApi()
    compilerOptions {
        jvmTarget = JvmTarget.JVM_1_8
    }
}

dependencies {
    api(project(":core"))
    api(libs.executorch.android)
    testImplementation(libs.junit)
    testImplementation(testFixtures(project(":core")))
}
