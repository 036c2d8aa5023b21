package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class DecoderTest {
    @Test
    fun `prompts are cut as the reference cuts them`() {
        val cases = Vectors.cases("plans.json")
        assertTrue(cases.size > 500)
        for (case in cases) {
            val planner = PrefillPlanner(case.ints("widths"), case.int("cache_len"), case.flag("dynamic"))
            val plan = { planner.plan(case.int("position"), case.int("count")) }
            when (case.textOrNull("calls")) {
                "cache_full" -> assertFails<CacheFullException> { plan() }
                "no_tokens" -> assertFails<InvalidRequestException> { plan() }
                else -> assertEquals(case.calls(), plan().map { listOf(it.phase.id, it.count.toString(), it.width.toString()) })
            }
        }
    }

    private fun Case.calls() = items("calls").map { call ->
        (call as Json.Arr).items.map { if (it is Json.Str) it.value else (it as Json.Num).text }
    }

    @Test
    fun `every call sees the cache that the reference host gives it`() {
        val cases = Vectors.cases("caches.json")
        assertTrue(cases.size >= 50)
        for (case in cases) {
            val engine = FakeEngine(50)
            val allocator = KeepingAllocator()
            val manifest = fakeManifest(
                batched = case.flag("batched"), buckets = case.ints("buckets"), widths = case.ints("widths"),
                prefillBuckets = case.ints("prefill_buckets"),
            )
            val decoder = Decoder(manifest, engine, allocator)
            drive(decoder, case.ints("operations"))
            val expected = case.cases("calls")
            assertEquals(expected.size, engine.calls.size)
            expected.zip(engine.calls).forEachIndexed { index, (wanted, call) ->
                val where = "${case.ints("operations")} with ${manifest.graphs.map { it.method }}, call $index"
                assertEquals(where, wanted.ints("ids"), call.ids)
                assertEquals(where, wanted.int("position"), call.position)
                assertEquals(where, wanted.int("last_index"), call.lastIndex)
                assertEquals(where, wanted.table("cache"), call.cache)
                assertEquals(where, wanted.text("graph"), call.graph.method)
            }
            assertEquals(case.table("final"), allocator.buffers.take(4).map { it.floats() })
        }
    }

    private class KeepingAllocator : BufferAllocator {
        val buffers = ArrayList<java.nio.ByteBuffer>()

        override fun allocate(bytes: Int) = BufferAllocator.Direct.allocate(bytes).also { buffers.add(it) }
    }

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
    fun `a token binds and allocates nothing`() {
        for (manifest in listOf(fakeManifest(), fakeManifest(batched = true), fakeManifest(dynamic = true), fakeManifest(buckets = listOf(8)))) {
            val engine = FakeEngine(50)
            val allocator = CountingAllocator()
            val decoder = Decoder(manifest, engine, allocator)
            decoder.prefill(IntArray(9) { 5 })
            decoder.decode(6)
            val before = listOf(engine.bound, allocator.count)
            repeat(6) { decoder.decode(6) }
            assertEquals(before, listOf(engine.bound, allocator.count))
            decoder.rewind()
            decoder.prefill(IntArray(8) { 5 })
            decoder.decode(6)
            assertEquals("a second text of recurring widths", before, listOf(engine.bound, allocator.count))
        }
    }

    @Test
    fun `a ragged tail of a free graph is bound for one call and closed`() {
        val engine = FakeEngine(50)
        val decoder = Decoder(fakeManifest(dynamic = true), engine)
        val row = decoder.prefill(IntArray(7) { 5 })!!
        assertEquals(listOf(4, 3), engine.calls.map { it.ids.size })
        assertEquals(1, engine.closedSteps)
        assertEquals(5f, row.buffer.get(row.offset), 0f)
        decoder.close()
        assertEquals(engine.bound, engine.closedSteps)
        assertTrue(engine.closed)
    }

    @Test
    fun `logits of all positions give the last real one`() {
        val engine = FakeEngine(50) { 10 + it.lastIndex }
        val decoder = Decoder(fakeManifest(allLogits = true), engine)
        val row = decoder.prefill(IntArray(6) { 5 })!!
        assertEquals(5f, row.buffer.get(row.offset + 11), 0f)
    }

    @Test
    fun `a full cache and bad ids are refused before anything runs`() {
        val engine = FakeEngine(50)
        val decoder = Decoder(fakeManifest(), engine)
        assertFails<CacheFullException> { decoder.prefill(IntArray(17) { 5 }) }
        assertFails<InvalidRequestException> { decoder.prefill(intArrayOf()) }
        assertFails<InvalidRequestException> { decoder.prefill(intArrayOf(5, 50)) }
        assertFails<InvalidRequestException> { decoder.prefill(intArrayOf(-1)) }
        assertEquals(0, engine.calls.size)
        decoder.prefill(IntArray(16) { 5 })
        val calls = engine.calls.size
        assertFails<CacheFullException> { decoder.decode(5) }
        assertFails<InvalidRequestException> { decoder.rewind(17) }
        assertEquals(calls, engine.calls.size)
        assertEquals(16, decoder.position)
    }

    @Test
    fun `a token without a row is to be taken out of the text, and a step without room says so`() {
        val decoder = Decoder(fakeManifest(), FakeEngine(50))
        for (refused in listOf({ decoder.prefill(intArrayOf(5, 50)) }, { decoder.decode(50) })) {
            val error = assertFails<InvalidRequestException> { refused() }
            assertEquals(Phrase.UNKNOWN_TOKEN to listOf<Any>(50, 50), error.said.phrase to error.said.values)
            assertEquals(Phrase.TAKE_OUT, error.remedy.phrase)
        }
        decoder.prefill(IntArray(16) { 5 })
        val full = assertFails<CacheFullException> { decoder.decode(5) }
        assertEquals(Phrase.TOKENS_DO_NOT_FIT to listOf<Any>(1, 16, 16), full.said.phrase to full.said.values)
    }

    @Test
    fun `going back keeps the rows before`() {
        val engine = FakeEngine(50)
        val decoder = Decoder(fakeManifest(buckets = listOf(8)), engine)
        decoder.prefill(IntArray(4) { 5 })
        decoder.decode(6)
        decoder.rewind(2)
        decoder.decode(7)
        decoder.decode(8)
        val last = engine.calls.last()
        assertEquals(3, last.position)
        // Slot 1 is of the prefill (call 1), slot 2 of the step after going back (call 3).
        assertEquals(listOf(1, 3), listOf(1, 2).map { last.cache[0][3 * it] / 1000 })
    }
}
