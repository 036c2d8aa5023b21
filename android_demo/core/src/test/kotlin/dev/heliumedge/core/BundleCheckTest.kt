package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** What cannot run is refused by its manifest: before an import copies, and before a load hashes. */
class BundleCheckTest {
    @get:Rule
    val temporary = TemporaryFolder()

    /** Has a version, as runtimes do, and is never opened here. */
    private class Versioned(private val version: String?) : EngineFactory {
        override fun open(bundle: BundleFolder, threads: Int, allocator: BufferAllocator): GraphEngine = error("opened")

        override fun check(manifest: Manifest) {
            RuntimeCheck.requireVersion(manifest, "Runtime", Phrase.UPDATE_APP.with()) { version }
        }
    }

    private val onnx = mapOf<Runtime, EngineFactory>(Runtime.ONNX to Versioned("1.25.0"))
    private val bundle = Vectors.bundle("in_place")

    private fun changed(from: String, to: String): File {
        val folder = File(temporary.newFolder(), "bundle")
        bundle.copyRecursively(folder)
        val file = File(folder, MANIFEST_NAME)
        val text = file.readText()
        assertTrue(from, from in text)
        file.writeText(ManifestSeal.seal(text.replaceFirst(from, to)))
        return folder
    }

    private inline fun <reified T : HeliumException> refused(folder: File, factories: Map<Runtime, EngineFactory> = onnx): String {
        val log = VerificationLog(File(temporary.root, "log"))
        val loader = BundleLoader(factories, BufferAllocator.Direct, CrashGuard(File(temporary.root, "note")), log) { 1L shl 40 }
        val store = BundleStore(temporary.newFolder())
        val opened = ArrayList<String>()
        val source = BundleSource { path -> File(folder, path).also { opened.add(path) }.inputStream() }
        val imported = assertFails<T> {
            BundleImporter(store, log, loader::check).import(source, { error("asked for space") }) { _, _ -> error("copied") }
        }
        assertEquals("nothing but the manifest is read", listOf(MANIFEST_NAME), opened)
        assertEquals(listOf<Any>(emptyList<File>(), emptyList<File>()), listOf(store.bundles(), store.abandoned()))
        val loaded = assertFails<T> { loader.load(folder, Settings()) { _, _ -> error("hashed") } }
        assertEquals(imported.message, loaded.message)
        return loaded.message!!
    }

    @Test
    fun `an unsuitable bundle is refused before anything is copied or hashed`() {
        val messages = listOf(
            refused<TokenizerException>(changed("\"kind\": \"unigram\"", "\"kind\": \"wordpiece\"")),
            refused<WrongRuntimeException>(bundle, mapOf(Runtime.EXECUTORCH to Versioned("1.5.1"))),
            refused<WrongRuntimeException>(bundle, emptyMap()),
            refused<WrongRuntimeException>(changed("\"runtime_min_version\": \"1.23\"", "\"runtime_min_version\": \"1.25.1\"")),
            refused<EngineException>(bundle, mapOf(Runtime.ONNX to Refusing)),
        )
        assertEquals(messages.toString(), messages.size, messages.toSet().size)
        assertTrue(messages[0], "wordpiece" in messages[0] && "unigram, bpe" in messages[0])
    }

    private object Refusing : EngineFactory {
        override fun open(bundle: BundleFolder, threads: Int, allocator: BufferAllocator): GraphEngine = error("opened")

        override fun check(manifest: Manifest) = throw EngineException(Phrase.UNPLANNED_OUTPUTS.with(manifest.name), Phrase.EXPORT_CURRENT.with())
    }

    @Test
    fun `a suitable one is not, nor one whose runtime nobody asked`() {
        val check = BundleCheck(onnx)
        val manifest = BundleFolder.open(bundle).manifest
        check.check(manifest)
        check.check(manifest, Runtime.ONNX)
        val wanted = assertFails<WrongRuntimeException> { check.check(manifest, Runtime.EXECUTORCH) }
        assertEquals(Phrase.OTHER_RUNTIME_WANTED, wanted.said.phrase)
        val other = assertFails<WrongRuntimeException> { RuntimeCheck.requireRuntime(manifest, listOf(Runtime.EXECUTORCH)) }
        assertEquals(other.message, assertFails<WrongRuntimeException> { BundleCheck(mapOf(Runtime.EXECUTORCH to Versioned(null))).check(manifest) }.message)
        BundleCheck(mapOf(Runtime.ONNX to EngineFactory { _, _, _ -> error("opened") })).check(manifest.copy(runtimeMinVersion = "99"))
        BundleCheck(mapOf(Runtime.ONNX to Versioned(null))).check(manifest.copy(runtimeMinVersion = "99"))
        val never = object : EngineFactory {
            override fun open(bundle: BundleFolder, threads: Int, allocator: BufferAllocator): GraphEngine = error("opened")

            override fun check(manifest: Manifest) = RuntimeCheck.requireVersion(manifest, "Runtime", Phrase.UPDATE_APP.with()) { error("started") }
        }
        BundleCheck(mapOf(Runtime.ONNX to never)).check(manifest.copy(runtimeMinVersion = null))
        assertNull("the import of before asks nothing", BundleImporter(BundleStore(temporary.newFolder())).import({ File(bundle, it).inputStream() }, { Long.MAX_VALUE }) { _, _ -> false })
    }

    @Test
    fun `an encoder is refused, which neither continues nor labels`() {
        val graph = GraphSpec(
            "encoder.onnx", null, Phase.CLASSIFY, 4, null,
            listOf(TensorSpec("input_ids", Role.TOKENS, Dtype.INT64, listOf(1, 4))),
            listOf(TensorSpec("hidden", Role.HIDDEN_STATES, Dtype.FLOAT32, listOf(1, 4, 8))),
        )
        val encoder = fakeManifest().copy(graphs = listOf(graph), cache = null, output = OutputSpec(Task.ENCODER, emptyList(), null))
        assertEquals(Phrase.NO_LABELS, assertFails<InvalidRequestException> { BundleCheck(onnx).check(encoder) }.said.phrase)
        val labels = listOf(TensorSpec("logits", Role.LOGITS, Dtype.FLOAT32, listOf(1, 3)))
        BundleCheck(onnx).check(encoder.copy(graphs = listOf(graph.copy(outputs = labels)), output = OutputSpec(Task.SEQUENCE_CLASSIFICATION, emptyList(), null)))
    }

    @Test
    fun `versions are compared as numbers`() {
        for (older in listOf("1.26.9", "1.9", "0.99.1")) assertTrue(older, RuntimeCheck.isOlder(older, "1.27"))
        for (enough in listOf("1.27", "1.27.0", "1.32.0", "2.0", "1.27.0-rc1")) assertFalse(enough, RuntimeCheck.isOlder(enough, "1.27"))
        val error = assertFails<WrongRuntimeException> {
            RuntimeCheck.requireVersion(fakeManifest().copy(runtimeMinVersion = "1.5.1"), "ExecuTorch", Phrase.UPDATE_APP.with()) { "1.4.1" }
        }
        assertEquals("fake needs ExecuTorch 1.5.1 or newer, this app has 1.4.1", error.what)
    }
}
