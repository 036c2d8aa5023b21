package dev.heliumedge.ort

import ai.onnxruntime.OrtException
import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.CountingAllocator
import dev.heliumedge.core.Decoder
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.MemoryEstimate
import dev.heliumedge.core.NotEnoughMemoryException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.WrongRuntimeException
import dev.heliumedge.core.assertFails
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.nio.ByteBuffer

/** What the engine promises beside the numbers. */
class OrtEngineTest {
    @Test
    fun `whatever ONNX Runtime throws is named, with a remedy`() {
        val thrown = OrtException.OrtErrorCode.values().map { OrtException(it, "code $it") } + listOf(
            IllegalStateException("Trying to score a closed OrtSession."), IllegalArgumentException("shape"), NullPointerException(),
            UnsatisfiedLinkError("libonnxruntime4j_jni.so"), NoClassDefFoundError("ai/onnxruntime/OrtSession"), ExceptionInInitializerError("init"),
        )
        val messages = thrown.map { error ->
            val named = assertFails<EngineException> { named("run decode") { throw error } }
            assertEquals(error, named.cause)
            assertEquals(named.message, 1, named.message!!.lines().size)
            named.message
        }
        assertEquals(messages.size, messages.toSet().size)
        val bundle = open("append")
        val engine = engine(bundle)
        val decoder = Decoder(bundle.manifest, engine)
        decoder.decode(5)
        engine.close()
        assertFails<EngineException> { decoder.decode(5) }
    }

    @Test
    fun `what a manifest needs is asked of the factory before anything is opened`() {
        val manifest = open("in_place").manifest
        val factory = OrtEngineFactory { "1.25.0" }
        factory.check(manifest.copy(runtimeMinVersion = "1.25"))
        val error = assertFails<WrongRuntimeException> { factory.check(manifest.copy(runtimeMinVersion = "1.26")) }
        assertEquals(Phrase.OLD_RUNTIME to listOf<Any>(manifest.name, "ONNX Runtime", "1.26", "1.25.0"), error.said.phrase to error.said.values)
        assertEquals(Phrase.UPDATE_OR_MIN_RUNTIME, error.remedy.phrase)
        val codes = open("int8").manifest.copy(runtimeMinVersion = "1.26")
        assertEquals(Phrase.UPDATE_OR_PLAIN_CACHE, assertFails<WrongRuntimeException> { factory.check(codes) }.remedy.phrase)
        assertFails<WrongRuntimeException> { factory.check(manifest.copy(runtime = "executorch")) }
        assertFails<WrongRuntimeException> { OrtGraphEngine(open("int8"), version = { "1.0" }) }
        OrtEngineFactory { error("started") }.check(manifest.copy(runtimeMinVersion = null))
        // What it opens runs.
        val bundle = open("append")
        val version = System.getenv("ORT_REAL_LIB")?.substringAfter(".so.")
        val engine = OrtEngineFactory { version ?: it.version }.open(bundle, 1, BufferAllocator.Direct)
        Decoder(bundle.manifest, engine).use { it.decode(5) }
    }

    @Test
    fun `all memory is given back, that of each ragged end of a prompt at once`() {
        for (name in listOf("in_place", "append", "int8", "half")) {
            for (static in listOf(false, true)) {
                val bundle = open(name)
                val allocator = CountingAllocator()
                running(bundle, static, allocator) { _, decoder ->
                    decoder.warmUp()
                    val whole = bundle.manifest.prefillLen
                    if (whole < decoder.cacheLen) decoder.prefill(IntArray(whole) { 300 + it % 50 })
                    decoder.rewind()
                    decoder.decode(310)
                    val kept = allocator.bytes
                    for (ragged in listOf(3, 7, 5)) {
                        val row = decoder.prefill(IntArray(ragged) { 300 + it })!!
                        assertTrue(row.buffer.get(row.offset).isFinite())
                        if (!static) assertEquals("$name: $ragged tokens", kept, allocator.bytes)
                    }
                    if (decoder.givesRows) decoder.decodeRows(IntArray(4) { 300 + it })
                    assertTrue(allocator.bytes > 0)
                }
                assertEquals("$name, static = $static", 0L, allocator.bytes)
            }
        }
    }

    @Test
    fun `a step that cannot be bound keeps nothing`() {
        val bundle = open("append")
        val counting = CountingAllocator()
        val most = 2 * bundle.manifest.cache!!.layers
        val small = object : BufferAllocator {
            override fun allocate(bytes: Int) = if (counting.count < most + 3) counting.allocate(bytes) else throw NotEnoughMemoryException("no memory")

            override fun release(buffer: ByteBuffer) = counting.release(buffer)
        }
        val engine = engine(bundle, small)
        val decoder = Decoder(bundle.manifest, engine, small)
        val cache = counting.bytes
        assertFails<NotEnoughMemoryException> { decoder.decode(5) }
        assertEquals("the cache alone", cache to most + 3, counting.bytes to counting.count)
        decoder.close()
        assertEquals(0L, counting.bytes)
    }

    @Test
    fun `the cache's buffers have the bytes of the estimate, and every session is open before the first text`() {
        for (name in listOf("in_place", "append", "int8", "half")) {
            for (static in listOf(false, true)) {
                val bundle = open(name)
                val allocator = Keeping()
                running(bundle, static, allocator) { engine, decoder ->
                    decoder.warmUp()
                    val sessions = engine.openSessions
                    val spec = bundle.manifest.cache!!
                    val buffers = allocator.buffers.filter { it.capacity().toLong() == spec.bufferBytes }
                    assertEquals(name, 2 * spec.layers, buffers.size)
                    assertEquals(MemoryEstimate.of(bundle.manifest, spec.slots).cache, buffers.sumOf { it.capacity().toLong() })
                    decoder.prefill(IntArray(20) { 300 + it })
                    decoder.decode(310)
                    assertEquals("$name: none is opened in a text", sessions, engine.openSessions)
                }
            }
        }
    }
}
