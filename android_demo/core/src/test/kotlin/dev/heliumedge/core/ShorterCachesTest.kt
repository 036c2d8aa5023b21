package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.nio.ByteBuffer
import java.util.Random

private const val SLOTS = 64
private const val VOCAB = 50

/** Logits that depend on every token and its place. */
private fun noisy(text: List<Int>): FloatArray {
    val random = Random(text.fold(17L) { hash, id -> 31 * hash + id })
    return FloatArray(VOCAB) { random.nextFloat() }
}

/** Graphs with shorter caches of both phases, over a model that reads its text from the cache. */
class ShorterCachesTest {
    /** Overwrites what is given back, so that whoever still reads it finds no text there. */
    private class Spoiling(private val refuses: (Int) -> Boolean = { false }) : BufferAllocator {
        var count = 0
        var bytes = 0L
        var most = 0L

        override fun allocate(bytes: Int): ByteBuffer {
            if (refuses(bytes)) throw NotEnoughMemoryException("no memory for $bytes bytes")
            count++
            this.bytes += bytes
            most = maxOf(most, this.bytes)
            return BufferAllocator.Direct.allocate(bytes)
        }

        override fun release(buffer: ByteBuffer) {
            bytes -= buffer.capacity()
            for (element in 0 until buffer.capacity() / 4) buffer.putFloat(4 * element, -7f)
        }
    }

    private class Host(val manifest: Manifest, static: Boolean = false, refuses: (Int) -> Boolean = { false }) {
        val engine = TextEngine(::noisy)
        val allocator = Spoiling(refuses)
        val decoder = Decoder(manifest, engine, allocator, static)

        /** Logits of every call that was asked for. */
        val rows = ArrayList<List<Float>>()
        private var token = 0

        fun read(count: Int) = note(decoder.prefill(IntArray(count) { next() })!!)

        fun step() = note(decoder.decode(next())!!)

        /** Lets a prompt and then steps take the text to [position], by other ways for other [seed]. */
        fun goTo(position: Int, seed: Int) {
            decoder.rewind()
            val steps = minOf(position, seed % 4)
            if (position > steps) read(position - steps)
            repeat(steps) { step() }
        }

        /** Graphs by phase, tokens and slots, with the position of each call. */
        fun calls() = engine.calls.map { (graph, position) -> Triple(graph.phase, graph.tokens!!, position) to graph.cacheLen!! }

        private fun next() = 7 * ++token % VOCAB

        private fun note(row: Logits) {
            rows.add(List(VOCAB) { row.buffer.get(row.offset + it) })
        }
    }

    private fun manifest(prefills: List<Int>, decodes: List<Int> = listOf(4, 24, 40), update: (List<GraphSpec>) -> List<GraphSpec> = { it }) =
        fakeManifest(slots = SLOTS, widths = listOf(8, 32), buckets = decodes, prefillBuckets = prefills, vocabSize = VOCAB)
            .let { it.copy(graphs = update(it.graphs)) }

    private val settings = listOf(
        listOf(16, 40) to listOf(4, 24, 40), listOf(40) to emptyList<Int>(), listOf(16, 40) to listOf(12), listOf(8, 33, 63) to listOf(5, 33, 50),
    )

    /** The rule: of the graphs of a phase with that many tokens, the shortest cache with room for all of them. */
    private fun wanted(manifest: Manifest, call: Triple<Phase, Int, Int>): Int {
        val (phase, width, position) = call
        return manifest.graphs.filter { it.phase == phase && it.tokens == width }.map { it.cacheLen!! }.filter { position + width <= it }.minOrNull()!!
    }

    @Test
    fun `a prompt at any position gives the text of full caches, and each call takes the shortest cache with room`() {
        val lengths = HashSet<Pair<Phase, Int>>()
        for ((prefills, decodes) in settings) {
            val full = Host(manifest(emptyList(), emptyList()))
            val shorter = Host(manifest(prefills, decodes))
            for (position in 0..SLOTS) {
                for (count in listOf(1, 2, 8, 9, 31, 64).filter { it <= SLOTS - position }) {
                    for (host in listOf(full, shorter)) {
                        host.goTo(position, count)
                        host.read(count)
                        if (host.decoder.position < SLOTS) host.step()
                    }
                    assertEquals(full.decoder.cachedTokens().toList(), shorter.decoder.cachedTokens().toList())
                }
            }
            assertEquals("$prefills, $decodes", full.rows, shorter.rows)
            assertEquals("the calls are cut as before", full.calls().map { it.first }, shorter.calls().map { it.first })
            for ((call, slots) in shorter.calls()) {
                assertEquals("$call of $prefills, $decodes", wanted(shorter.manifest, call), slots)
                if (prefills.size == 2) lengths.add(call.first to slots)
            }
        }
        val all = listOf(16, 40, 64).map { Phase.PREFILL to it } + listOf(4, 12, 24, 40, 64).map { Phase.DECODE to it }
        assertEquals("every graph had its turn", all.toSet(), lengths)
    }

    @Test
    fun `the last position of each cache is the one that its padding just fits`() {
        val cases = listOf(
            // Position, tokens, graph's tokens, slots.
            listOf(0, 8, 8, 16), listOf(8, 8, 8, 16), listOf(9, 8, 8, 40), listOf(32, 8, 8, 40), listOf(33, 8, 8, 64), listOf(56, 8, 8, 64),
            listOf(0, 32, 32, 40), listOf(8, 32, 32, 40), listOf(9, 32, 32, 64), listOf(32, 32, 32, 64),
            // Padding counts: of two tokens, and of seventeen.
            listOf(8, 2, 8, 16), listOf(9, 2, 8, 40), listOf(8, 17, 32, 40), listOf(9, 17, 32, 64),
        )
        for ((position, count, width, slots) in cases) {
            val host = Host(manifest(listOf(16, 40)))
            repeat(position) { host.step() }
            host.read(count)
            assertEquals("$count tokens at $position", Triple(Phase.PREFILL, width, position) to slots, host.calls().last())
        }
    }

    @Test
    fun `conversations that go on, back and anew give the same text`() {
        val random = Random(3)
        for (number in 0 until 200) {
            val (prefills, decodes) = settings[number % settings.size]
            val full = Host(manifest(emptyList(), decodes))
            val shorter = Host(manifest(prefills, decodes))
            val changes = ArrayList<Int>()
            repeat(40) {
                val position = full.decoder.position
                val room = SLOTS - position
                val kind = random.nextInt(10)
                val count = 1 + random.nextInt(maxOf(1, if (kind < 2) room else minOf(room, 12)))
                val back = random.nextInt(position + 1)
                for (host in listOf(full, shorter)) {
                    when {
                        kind > 7 || room == 0 -> host.decoder.rewind(back)
                        kind < 5 -> host.read(count)
                        else -> repeat(minOf(count, room)) { host.step() }
                    }
                }
                changes.add(count)
            }
            assertEquals("$prefills, $decodes, $changes", full.rows, shorter.rows)
            assertEquals(full.decoder.cachedTokens().toList(), shorter.decoder.cachedTokens().toList())
            shorter.decoder.close()
            assertEquals("all memory is given back", 0L, shorter.allocator.bytes)
        }
    }

    @Test
    fun `the order of the manifest does not matter, and no number of tokens goes without the full cache`() {
        val random = Random(5)
        repeat(20) {
            val hosts = listOf(Host(manifest(listOf(16, 40))), Host(manifest(listOf(16, 40)) { it.shuffled(random) }))
            for (host in hosts) {
                for (position in listOf(0, 20, 33, 7)) host.goTo(position, position)
                host.read(9)
            }
            assertEquals(hosts[0].calls(), hosts[1].calls())
        }
        val lacking = manifest(listOf(16, 40)) { graphs -> graphs.filter { it.tokens != 32 || it.cacheLen != SLOTS } }
        val error = assertFails<ManifestException> { Host(lacking) }
        assertTrue(error.message!!, "no prefill graph of 32 tokens for 64 slots" in error.message!!)
    }

    @Test
    fun `a graph for both phases leaves them alone`() {
        val any = fakeManifest(dynamic = true, freeRows = true, slots = SLOTS, vocabSize = VOCAB, widths = listOf(32))
        val both = any.copy(graphs = any.graphs + manifest(listOf(16, 40)).graphs)
        val free = Host(both)
        val static = Host(both, static = true)
        for (host in listOf(free, static)) {
            host.read(5)
            host.step()
            host.read(20)
        }
        assertEquals(free.rows, static.rows)
        assertEquals(setOf(any.graphs.single()), free.engine.calls.map { it.first }.toSet())
        assertEquals("the full one alone", 4, free.allocator.count)
        assertEquals(listOf(16, 24, 40), static.calls().map { it.second })
        assertTrue(free.decoder.givesRows && !static.decoder.givesRows)
    }

    @Test
    fun `buffers are made where the length changes, and not for each token`() {
        val host = Host(manifest(listOf(40), listOf(24, 40)))
        // What was made since the last look, in sets of buffers, and steps that were bound.
        var seen = listOf(0, 0)
        fun made(): List<Int> {
            val now = listOf(host.allocator.count / 4, host.engine.bound)
            return now.zip(seen) { new, old -> new - old }.also { seen = now }
        }
        assertEquals("the full one", listOf(1, 0), made())
        host.read(16)
        assertEquals("one of 40", listOf(1, 1), made())
        host.step()
        assertEquals("one of 24", listOf(1, 1), made())
        repeat(7) { host.step() }
        assertEquals(listOf(0, 0), made())
        host.step()
        assertEquals("one of 40", listOf(1, 1), made())
        host.read(8)
        assertEquals("a prompt in the same", listOf(0, 1), made())
        repeat(7) { host.step() }
        assertEquals(listOf(0, 0), made())
        host.read(8)
        assertEquals("with the full cache, which is there", listOf(0, 1), made())
        assertEquals("the shorter one is kept for a step after it", (64L + 40) * 96, host.allocator.bytes)
        host.step()
        assertEquals("and dropped by the first that has no use for it", listOf(0, 1) to 64L * 96, made() to host.allocator.bytes)
        repeat(7) { host.step() }
        assertEquals(listOf(0, 0), made())
    }

    @Test
    fun `steps over a cache that is gone are closed`() {
        val engine = FakeEngine(VOCAB)
        engine.recordsCache = false
        val decoder = Decoder(manifest(listOf(16, 40)), engine)
        repeat(30) {
            decoder.rewind()
            decoder.prefill(IntArray(20) { 5 })
            repeat(10) { decoder.decode(6) }
            assertTrue("${engine.bound - engine.closedSteps} are open", engine.bound - engine.closedSteps <= 3)
        }
        decoder.close()
        assertEquals(engine.bound, engine.closedSteps)
    }

    @Test
    fun `a shorter cache that there is no memory for ends the one before all the same`() {
        var refusing = false
        val host = Host(manifest(listOf(40), listOf(24)), refuses = { refusing && it == 40 * 24 })
        host.read(8)
        host.step()
        refusing = true
        assertFails<NotEnoughMemoryException> { host.read(8) }
        assertEquals("what was got is given back", 64L * 96, host.allocator.bytes)
        host.step()
        assertEquals("the step has one of its own again", (64L + 24) * 96, host.allocator.bytes)
        refusing = false
        host.read(8)
        assertEquals(18, host.decoder.position)
        val plain = Decoder(manifest(emptyList(), emptyList()), TextEngine(::noisy))
        val row = plain.prefill(host.decoder.cachedTokens())!!
        assertEquals(List(VOCAB) { row.buffer.get(row.offset + it) }, host.rows.last())
    }

    @Test
    fun `a prompt cache from a file fills shorter caches of prefill anew`() {
        val host = Host(manifest(listOf(16, 40)))
        host.read(6)
        val ids = host.decoder.cachedTokens()
        host.decoder.restore(ids) { _, heads -> heads.forEach { rows -> for (row in ids.indices) repeat(3) { rows.putDown(ids[row] + 1) } } }
        host.read(4)
        assertEquals("rows of the file, not of the call before", noisy(ids.map { it + 1 } + host.decoder.cachedTokens().drop(6)).toList(), host.rows.last())
    }

    private fun ByteBuffer.putDown(value: Int) {
        order(java.nio.ByteOrder.nativeOrder()).putFloat(value.toFloat())
    }

    @Test
    fun `the estimate holds for every way to a context, and is reached by those that fill a call`() {
        for ((prefills, decodes) in settings + listOf(emptyList<Int>() to listOf(4, 24), emptyList<Int>() to emptyList())) {
            val manifest = manifest(prefills, decodes)
            for (context in 1..SLOTS) {
                val estimate = MemoryEstimate.of(manifest, context).cache
                val most = (0 until context).maxOf { before ->
                    val host = Host(manifest)
                    repeat(before) { host.step() }
                    host.read(context - before)
                    host.allocator.most
                }
                val where = "$prefills, $decodes, $context tokens: $most of $estimate"
                assertTrue(where, most <= estimate && (most == estimate || prefills.isNotEmpty() && context < 18))
            }
        }
        val byHand = listOf(1, 10, 11, 64).map { MemoryEstimate.of(fakeManifest(slots = SLOTS, widths = listOf(8), prefillBuckets = listOf(16, 40)), it).cache }
        assertEquals("the call at 8 is the last one in 16 slots", listOf(16, 16, 40, 40).map { (64L + it) * 96 }, byHand)
    }
}
