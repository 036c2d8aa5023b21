package dev.heliumedge.ort

import ai.onnxruntime.OrtException
import dev.heliumedge.core.Decoder
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.MemoryEstimate
import dev.heliumedge.core.assertFails
import org.junit.Assert.assertEquals
import org.junit.Test

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
