package dev.heliumedge.core

import java.io.File
import java.util.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class RemoteBenchmarkTest {
    @get:Rule
    val folder: TemporaryFolder = TemporaryFolder()

    private val tokenizer = Tokenizer.open(Vectors.file("tokenizers/tiny.json"))
    private val extras = mapOf("contexts" to "0,9", "prompts" to "4", "repeats" to "2", "warmup" to "1", "steps" to "3", "threads" to "2")

    private fun request(vararg changes: Pair<String, String?>) = BenchmarkRequest.parse { (extras + changes)[it] }

    /** Each look at the clock is a millisecond later. */
    private fun benchmark(): RemoteBenchmark {
        var now = 0L
        return RemoteBenchmark(Clock { now += 1_000_000; now }, { 77 })
    }

    private fun loaded(manifest: Manifest, engine: FakeEngine) =
        LoadedBundle(BundleFolder(folder.root, manifest), tokenizer, engine.name, Decoder(manifest, engine), null, 5)

    @Test
    fun `samples begin at their depth and see a cache that is filled`() {
        for (manifest in listOf(fakeManifest(), fakeManifest(buckets = listOf(6)), fakeManifest(CacheUpdate.IN_PLACE, batched = true, dynamic = true))) {
            val engine = FakeEngine(50)
            val json = benchmark().run(loaded(manifest, engine), request(), mapOf("android" to "9"))
            val decode = engine.calls.filter { it.ids.size == 1 }.map { it.position }
            val round = listOf(0, 0, 1, 2, 9, 9, 10, 11)
            assertEquals("one step to wake up, then three, in each of three rounds", round + round + round, decode)
            val prompts = engine.calls.filter { it.ids.size == 4 }.map { it.position }
            assertEquals("the first call, then both depths in each round", listOf(0) + List(3) { listOf(0, 9) }.flatten(), prompts)
            val fields = (Json.parse(json!!) as Json.Obj).fields
            assertEquals(setOf("schema", "bundle", "engine", "device", "load_ns", "first_ns", "resident_bytes", "results"), fields.keys)
            val results = (fields.getValue("results") as Json.Arr).items.map { (it as Json.Obj).fields }
            assertEquals(listOf("decode", "decode", "prefill", "prefill"), results.map { (it.getValue("phase") as Json.Str).value })
            for (result in results) {
                assertEquals(listOf("1000000", "1000000"), (result.getValue("ns") as Json.Arr).items.map { (it as Json.Num).text })
            }
        }
    }

    @Test
    fun `the cache is filled with finite numbers that are not all the same`() {
        val buffers = KvBuffers(fakeManifest().cache!!, 16, BufferAllocator.Direct)
        buffers.fill(Random(0))
        for (buffer in buffers.buffers) {
            val values = List(buffer.capacity() / 4) { buffer.getFloat(4 * it) }
            assertTrue(values.all { it > -1 && it < 1 && it != 0f })
            assertTrue(values.distinct().size > 50)
        }
    }

    @Test
    fun `logits that are not finite are an error`() {
        val engine = FakeEngine(50)
        val decoder = Decoder(fakeManifest(), engine)
        engine.afterRun = { it.put(7, Float.NaN) }
        val broken = LoadedBundle(BundleFolder(folder.root, fakeManifest()), tokenizer, "fake", decoder, null, 5)
        assertFails<BadLogitsException> { benchmark().run(broken, request(), emptyMap()) }
    }

    @Test
    fun `stop ends it without a document`() {
        val stop = StopSignal().apply { request() }
        assertNull(benchmark().run(loaded(fakeManifest(), FakeEngine(50)), request(), emptyMap(), stop))
    }

    @Test
    fun `what is asked for is checked`() {
        assertEquals(BenchmarkRequest(listOf(0, 9), listOf(4), 2, 1, 3, 2), request())
        assertEquals(emptyList<Int>(), request("prompts" to "").prompts)
        for ((name, text) in listOf("contexts" to "a", "contexts" to "-1", "contexts" to null, "repeats" to "0", "repeats" to "1,2", "steps" to "0", "repeats" to "9000", "steps" to "99999999999")) {
            assertFails<InvalidRequestException> { request(name to text) }
        }
        val deep = request("contexts" to "14")
        assertFails<InvalidRequestException> { benchmark().run(loaded(fakeManifest(), FakeEngine(50)), deep, emptyMap()) }
    }

    @Test
    fun `a document is published whole, alone and under a name that stays in its folder`() {
        val target = File(folder.root, "bench")
        RemoteBenchmark.publish("one", target, "a-1")
        RemoteBenchmark.publish("two", target, "b-2")
        assertEquals(listOf("b-2.json"), target.list()!!.toList())
        assertEquals("two", File(target, "b-2.json").readText())
        for (id in listOf("", "../x", "a/b", "A", "a.json", "x".repeat(41))) assertFalse(RemoteBenchmark.isId(id))
        val failure = Json.parse(RemoteBenchmark.failure(CacheFullException("full"))) as Json.Obj
        assertEquals("full", ((failure.fields.getValue("error") as Json.Obj).fields.getValue("message") as Json.Str).value)
    }
}
