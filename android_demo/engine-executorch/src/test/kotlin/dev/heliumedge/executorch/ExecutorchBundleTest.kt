package dev.heliumedge.executorch

import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.CountingAllocator
import dev.heliumedge.core.Decoder
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.SelfTest
import dev.heliumedge.core.Tokenizer
import dev.heliumedge.core.Vectors
import dev.heliumedge.core.assertFails
import dev.heliumedge.core.assertGenerated
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.RandomAccessFile
import java.util.Random
import kotlin.math.abs

/** The bundles that the Python package exported, run by this host on ExecuTorch, where there is a library of it for this machine. */
class ExecutorchBundleTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val names = listOf("xnnpack", "xnnpack_half", "xnnpack_int8")

    @Before
    fun `the runtime is there`() = assumeTrue(System.getProperty("executorch.native.path") != null)

    private fun open(name: String) = BundleFolder.open(Vectors.bundle(name))

    private inline fun <T> running(bundle: BundleFolder, use: (Decoder) -> T): T =
        Decoder(bundle.manifest, ExecutorchGraphEngine(bundle, threads = 1)).use(use)

    @Test
    fun `the golden traces are reproduced`() {
        for (name in names) {
            val bundle = open(name)
            val tokenizer = Tokenizer.open(bundle.file(bundle.manifest.tokenizerFile))
            val result = running(bundle) { SelfTest(bundle.manifest, tokenizer, it, tolerance = 1e-3).run() }
            println("$name: ${result.message}; worst logit off by ${result.worstLogit}")
            assertTrue(result.message, result.passed)
            assertEquals("no ties: the library is the exporter's own", emptyList<Int>(), result.nearTies)
        }
    }

    @Test
    fun `whole texts, greedy and drawn, are those of the Python host`() {
        val cases = Vectors.cases("generations.json").groupBy { it.text("bundle") }
        for (name in names) {
            val (bundle, group) = open(name) to cases.getValue(name)
            assertTrue(group.size >= 6)
            running(bundle) { decoder -> group.forEach { assertGenerated(it, bundle, decoder) } }
            println("$name: ${group.size} texts equal, of prompts with up to ${group.maxOf { it.ints("prompt_ids").size }} tokens")
        }
    }

    @Test
    fun `a conversation that goes back gives the logits of one that did not`() {
        val bundle = open("xnnpack_float")
        val ids = Vectors.cases("generations.json").map { it.ints("prompt_ids") }.maxByOrNull { it.size }!!
        running(bundle) { decoder ->
            running(bundle) { other ->
                val random = Random(3)
                for (turn in 1..12) {
                    val (keep, length) = random.nextInt(60 * turn) to 1 + random.nextInt(70 * turn)
                    val text = ids.take(minOf(ids.size, keep + length)).toIntArray()
                    decoder.rewind(minOf(keep, text.size - 1, decoder.position))
                    other.rewind()
                    val found = decoder.prefilled(text.copyOfRange(decoder.position, text.size))
                    val alone = other.prefilled(text)
                    val worst = found.indices.maxOf { abs(found[it] - alone[it]) }
                    assertTrue("turn $turn: off by $worst", worst < 1e-3f)
                }
            }
        }
    }

    private fun Decoder.prefilled(ids: IntArray): List<Float> = prefill(ids)!!.let { row -> List(vocabSize) { row.buffer.get(row.offset + it) } }

    @Test
    fun `a token makes no tensor and no buffer, and closing gives all memory back`() {
        val bundle = open("xnnpack")
        val allocator = CountingAllocator()
        val engine = ExecutorchGraphEngine(bundle, threads = 1, allocator = allocator)
        Decoder(bundle.manifest, engine, allocator).use { decoder ->
            decoder.warmUp()
            decoder.prefill(IntArray(200) { 300 + it % 7 })
            decoder.decode(300)
            val before = engine.tensorsCreated to allocator.count
            repeat(20) { decoder.decode(301) }
            assertEquals(before, engine.tensorsCreated to allocator.count)
            assertTrue(allocator.bytes > 0)
        }
        assertEquals("closing gives all memory back", 0L, allocator.bytes)
    }

    @Test
    fun `damaged programs end in a message`() {
        val whole = open("xnnpack").let { it.file(it.manifest.graphs.first().file) }
        for (kept in listOf(0L, 7L, 1000L, whole.length() / 2)) {
            val file = temporary.newFile()
            whole.copyTo(file, overwrite = true)
            RandomAccessFile(file, "rw").use { it.setLength(kept) }
            val error = assertFails<EngineException> { ModuleProgram(file, 1).use { program -> program.load("decode") } }
            println(error.message)
            if (kept > 100) assertTrue(error.fix, "replaces what is damaged" in error.fix)
        }
        assertFails<EngineException> { ModuleProgram(File("none.pte"), 1) }
        ModuleProgram(whole, 1).use { program ->
            assertFails<EngineException> { program.load("encode") }
        }
    }

    @Test
    fun `a program that was closed says so`() {
        val program = open("xnnpack").let { ModuleProgram(it.file(it.manifest.graphs.first().file), 1) }
        program.close()
        assertTrue("destroyed" in assertFails<EngineException> { program.load("decode") }.what)
    }
}
