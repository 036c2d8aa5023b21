package dev.heliumedge.executorch

import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.Case
import dev.heliumedge.core.CountingAllocator
import dev.heliumedge.core.Decoder
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.GraphMismatchException
import dev.heliumedge.core.Manifest
import dev.heliumedge.core.Phase
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.Vectors
import dev.heliumedge.core.WrongRuntimeException
import dev.heliumedge.core.assertFails
import dev.heliumedge.core.fakeManifest
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Tensor
import java.io.File
import java.nio.ByteBuffer
import java.nio.FloatBuffer

/** The engine over tensors of ExecuTorch's API and a program of ours, which sees every call. */
class ExecutorchEngineTest {
    private fun manifest(
        buckets: List<Int> = emptyList(),
        target: String = "xnnpack",
        widths: List<Int> = listOf(4),
        prefillBuckets: List<Int> = emptyList(),
    ): Manifest = fakeManifest(buckets = buckets, widths = widths, prefillBuckets = prefillBuckets).copy(runtime = "executorch", target = target)

    /** Answers as the graphs of hosts.py do, out of memory that every call uses again. */
    private class FakeProgram(private val manifest: Manifest, private val facts: Map<String, Long> = emptyMap()) : Program {
        class Call(val method: String, val ids: List<Int>, val position: Int, val lastIndex: Int?, val cache: List<List<Int>>)

        val calls = ArrayList<Call>()
        val loaded = ArrayList<String>()
        var closed = false
        private val memory = HashMap<String, List<FloatBuffer>>()

        override val methods: Set<String> = manifest.graphs.map { it.method!! }.toSet() + facts.keys

        override fun load(method: String) {
            loaded.add(method)
        }

        override fun execute(method: String, inputs: Array<EValue>): Array<EValue> {
            facts[method]?.let { return arrayOf(EValue.from(it)) }
            val graph = manifest.graphs.single { it.method == method }
            assertEquals(graph.inputs.size, inputs.size)
            val tensors = inputs.map { it.toTensor() }
            graph.inputs.zip(tensors).forEach { (spec, tensor) -> assertArrayEquals(spec.name, spec.shapeFor(0), tensor.shape()) }
            val scalars = if (graph.phase == Phase.PREFILL) 3 else 2
            val last = if (scalars == 3) tensors[2].dataAsLongArray.single().toInt() else null
            val cache = tensors.drop(scalars).map { tensor -> tensor.dataAsFloatArray.map { it.toInt() } }
            calls.add(Call(method, tensors[0].dataAsLongArray.map { it.toInt() }, tensors[1].dataAsLongArray.single().toInt(), last, cache))
            val outputs = memory.getOrPut(method) { graph.outputs.map { Tensor.allocateFloatBuffer(it.shape.reduce(Long::times).toInt()) } }
            outputs.forEachIndexed { index, buffer ->
                for (element in 0 until buffer.capacity()) buffer.put(element, 1000f * calls.size + 100f * (index - 1) + element)
            }
            return Array(outputs.size) { EValue.from(Tensor.fromBlob(outputs[it], graph.outputs[it].shape.toLongArray())) }
        }

        override fun close() {
            closed = true
        }
    }

    @Test
    fun `every method sees the cache that the reference host gives it`() {
        val cases = Vectors.cases("caches.json").filter { !it.flag("batched") }
        assertTrue(cases.size > 40)
        for (case in cases) {
            val manifest = manifest(case.ints("buckets"), widths = case.ints("widths"), prefillBuckets = case.ints("prefill_buckets"))
            val program = FakeProgram(manifest)
            Decoder(manifest, ExecutorchGraphEngine(manifest, program)).use { drive(it, case.ints("operations")) }
            assertTrue(program.closed)
            assertEquals(case.cases("calls").map { it.seen() }, program.calls.map { listOf(it.method, it.ids, it.position, it.cache) })
        }
    }

    private fun Case.seen() = listOf(text("graph"), ints("ids"), int("position"), table("cache"))

    private fun drive(decoder: Decoder, operations: List<Int>) {
        var token = 1
        for (operation in operations) {
            when {
                operation == 0 -> decoder.rewind()
                operation < 0 -> decoder.decode(token++ % 50)
                else -> {
                    decoder.prefill(IntArray(operation) { (token + it) % 50 })
                    token += operation
                }
            }
        }
    }

    @Test
    fun `prefill methods with shorter caches take their part of a conversation and see the same rows`() {
        val operations = listOf(3, -1, 2, 2, -1, -1, 4, 0, 2, 6, -1, 7)
        val (plain, shorter) = listOf(emptyList(), listOf(3, 6, 10)).map { caches ->
            val manifest = manifest(listOf(4, 8), widths = listOf(2, 4), prefillBuckets = caches)
            val program = FakeProgram(manifest)
            Decoder(manifest, ExecutorchGraphEngine(manifest, program)).use { drive(it, operations) }
            program.calls
        }
        val wanted = listOf(
            "prefill_4_6", "decode_4", "prefill_2_6", "prefill_2_10", "decode_16", "decode_16", "prefill_4",
            "prefill_2_3", "prefill_4_6", "prefill_2_10", "decode_16", "prefill_4", "prefill_2", "decode_16",
        )
        assertEquals(wanted, shorter.map { it.method })
        assertEquals(plain.map { it.seen() }, shorter.map { it.seen() })
    }

    /** What a call sees of the text: of each head the rows before its position. */
    private fun FakeProgram.Call.seen() =
        listOf(ids, position, lastIndex, cache.map { buffer -> buffer.chunked(buffer.size / 2).map { it.take(3 * position) } })

    @Test
    fun `a token makes no tensor and no buffer`() {
        val manifest = manifest()
        val allocator = CountingAllocator()
        val engine = ExecutorchGraphEngine(manifest, FakeProgram(manifest), allocator)
        val decoder = Decoder(manifest, engine, allocator)
        decoder.prefill(IntArray(5) { 7 })
        decoder.decode(8)
        val before = engine.tensorsCreated to allocator.count
        repeat(8) { decoder.decode(9) }
        assertEquals(before, engine.tensorsCreated to allocator.count)
    }

    @Test
    fun `turns that change between caches make the shorter cache anew, and nothing beside it`() {
        val manifest = manifest(listOf(4, 12), widths = listOf(2, 4), prefillBuckets = listOf(8))
        val allocator = CountingAllocator()
        val decoder = Decoder(manifest, ExecutorchGraphEngine(manifest, FakeProgram(manifest), allocator), allocator)
        fun turn(): Pair<Int, Long> {
            val before = allocator.count
            decoder.rewind()
            drive(decoder, listOf(3, -1, 2, -1, -1))
            return allocator.count - before to allocator.bytes
        }
        val first = turn()
        // 8, 4, 8 and 12 slots, of four tensors each: ids, position, logits and rows of three widths came with the first.
        val caches = 4 * 4
        assertEquals(caches + 2 * (3 + 1 + 1) + (2 + 1 + 1), first.first)
        repeat(3) { assertEquals(caches to first.second, turn()) }
    }

    @Test
    fun `logits are copied before the next call overwrites them`() {
        val manifest = manifest()
        val decoder = Decoder(manifest, ExecutorchGraphEngine(manifest, FakeProgram(manifest)))
        val row = decoder.prefill(intArrayOf(1, 2))!!
        assertEquals(900f, row.buffer.get(row.offset), 0f)
        decoder.decode(3)
        assertEquals("another method's call leaves them", 900f, row.buffer.get(row.offset), 0f)
    }

    @Test
    fun `every method is loaded before the first text`() {
        val manifest = manifest(listOf(4, 8), widths = listOf(2, 4), prefillBuckets = listOf(8))
        val program = FakeProgram(manifest)
        val decoder = Decoder(manifest, ExecutorchGraphEngine(manifest, program))
        decoder.warmUp()
        assertEquals(manifest.graphs.map { it.method }.sortedBy { it }, program.loaded.sorted())
        decoder.prefill(IntArray(9) { 7 })
        decoder.decode(8)
        assertEquals("and each once", manifest.graphs.size, program.loaded.size)
    }

    @Test
    fun `whatever ExecuTorch throws is named, with a remedy`() {
        val codes = (0x00..0x32).toList()
        val thrown = codes.map { ExecutorchRuntimeException(it, "code $it") } + listOf(
            RuntimeException("native"), IllegalStateException("Module has been destroyed"), IllegalArgumentException("shape"),
            UnsatisfiedLinkError("libexecutorch.so"), NoClassDefFoundError("org/pytorch/executorch/Module"), ExceptionInInitializerError("init"),
        )
        val messages = thrown.map { error ->
            val named = assertFails<EngineException> { named("run decode") { throw error } }
            assertEquals(error, named.cause)
            assertEquals(named.message, 1, named.message!!.lines().size)
            named.message
        }
        assertEquals(messages.size, messages.toSet().size)
        val own = GraphMismatchException("mine")
        assertEquals(own, assertFails<GraphMismatchException> { named("bind") { throw own } })
        assertFails<EngineException> { ModuleProgram(File("none.pte"), 1) }
    }

    @Test
    fun `a tensor that the library refuses is named`() {
        val manifest = manifest()
        val refusing = BufferAllocator { ByteBuffer.allocate(it) }
        assertFails<EngineException> { Decoder(manifest, ExecutorchGraphEngine(manifest, FakeProgram(manifest), refusing)).warmUp() }
    }

    @Test
    fun `a bundle that needs a newer ExecuTorch is refused, by its manifest alone too`() {
        val manifest = manifest().copy(runtimeMinVersion = "1.5")
        for (enough in listOf("1.5", "1.5.1", "2.0", null)) {
            ExecutorchEngineFactory(enough).check(manifest)
            val engine = ExecutorchGraphEngine(manifest, FakeProgram(manifest), version = enough)
            assertEquals(if (enough == null) "ExecuTorch" else "ExecuTorch $enough", engine.name)
        }
        val errors = listOf(
            assertFails<WrongRuntimeException> { ExecutorchGraphEngine(manifest, FakeProgram(manifest), version = "1.4.1") },
            assertFails<WrongRuntimeException> { ExecutorchEngineFactory("1.4.1").check(manifest) },
        )
        for (error in errors) {
            assertEquals(Phrase.OLD_RUNTIME to listOf<Any>("fake", "ExecuTorch", "1.5", "1.4.1"), error.said.phrase to error.said.values)
        }
        val factory = ExecutorchEngineFactory("1.5.1")
        assertEquals(Phrase.APPLE_ONLY, assertFails<WrongRuntimeException> { factory.check(manifest.copy(target = "coreml")) }.said.phrase)
        assertFails<WrongRuntimeException> { factory.check(manifest.copy(runtime = "onnxruntime")) }
        val old = manifest.copy(graphs = manifest.graphs.map { it.copy(plannedOutputs = false) })
        assertEquals(Phrase.UNPLANNED_OUTPUTS, assertFails<EngineException> { factory.check(old) }.said.phrase)
    }

    @Test
    fun `all memory is given back when it is closed, also where the program fails to`() {
        for (fails in listOf(false, true)) {
            val manifest = manifest(listOf(4, 12), widths = listOf(2, 4), prefillBuckets = listOf(8))
            val program = FakeProgram(manifest)
            val allocator = CountingAllocator()
            val failing = object : Program by program {
                override fun close() = if (fails) throw EngineException("broken", "Load it again.") else program.close()
            }
            val decoder = Decoder(manifest, ExecutorchGraphEngine(manifest, failing, allocator), allocator)
            drive(decoder, listOf(3, -1, 2, -1, 0, 4, -1))
            assertTrue(allocator.bytes > 0)
            if (fails) assertFails<EngineException> { decoder.close() } else decoder.close()
            assertEquals(0L, allocator.bytes)
        }
    }

    @Test
    fun `a program that is not the manifest's is refused`() {
        val manifest = manifest()
        assertFails<WrongRuntimeException> { ExecutorchGraphEngine(manifest.copy(runtime = "onnxruntime"), FakeProgram(manifest)) }
        assertFails<WrongRuntimeException> { ExecutorchGraphEngine(manifest(target = "coreml"), FakeProgram(manifest)) }
        assertFails<GraphMismatchException> { ExecutorchGraphEngine(manifest(listOf(4)), FakeProgram(manifest)) }
        assertFails<GraphMismatchException> { ExecutorchGraphEngine(manifest, FakeProgram(manifest, mapOf("get_vocab_size" to 51L))) }
        assertFails<GraphMismatchException> { ExecutorchGraphEngine(manifest, FakeProgram(manifest, mapOf("get_max_context_len" to 8L))) }
        val old = manifest.copy(graphs = manifest.graphs.map { it.copy(plannedOutputs = false) })
        assertTrue("current" in assertFails<EngineException> { ExecutorchGraphEngine(old, FakeProgram(old)) }.fix)
        val refused = FakeProgram(manifest, mapOf("get_vocab_size" to 51L))
        assertFails<GraphMismatchException> { ExecutorchGraphEngine(manifest, refused) }
        assertTrue("nobody else could close it", refused.closed)
        ExecutorchGraphEngine(manifest, FakeProgram(manifest, mapOf("get_vocab_size" to 50L, "get_max_context_len" to 16L)))
    }
}
