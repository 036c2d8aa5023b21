package dev.heliumedge.shrink

import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.Decoder
import dev.heliumedge.core.SelfTest
import dev.heliumedge.core.Tokenizer
import dev.heliumedge.ort.OrtGraphEngine
import dev.heliumedge.ort.OrtOptions
import java.io.File
import kotlin.system.exitProcess

/** What an app does with a bundle, in one call: opens it, and replays its golden trace. */
fun main(arguments: Array<String>) {
    val bundle = BundleFolder.open(File(arguments[0]))
    val tokenizer = Tokenizer.open(bundle.file(bundle.manifest.tokenizerFile))
    val engine = OrtGraphEngine(bundle, OrtOptions(threads = 1)) { "99" }
    val result = Decoder(bundle.manifest, engine).use { SelfTest(bundle.manifest, tokenizer, it).run() }
    println("shrunk, on ${engine.javaClass.name}: ${result.message}")
    if (!result.passed) exitProcess(1)
}
