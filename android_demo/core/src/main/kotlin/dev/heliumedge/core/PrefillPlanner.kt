package dev.heliumedge.core

/**
 * One call of a graph.
 *
 * @property phase Which graph.
 * @property start Index of its first token in the prompt.
 * @property count Real tokens.
 * @property width Tokens of the call; those from [count] on are padding.
 */
public data class Chunk(val phase: Phase, val start: Int, val count: Int, val width: Int)

/**
 * Cuts a prompt into calls of the graphs.
 *
 * @param prefillLen Tokens of the static prefill graph, and the longest chunk for a graph of phase `any`.
 * @param slots Tokens that fit in the cache.
 * @param dynamic Whether one graph of phase `any` serves both phases.
 */
public class PrefillPlanner(private val prefillLen: Int, private val slots: Int, private val dynamic: Boolean) {
    /**
     * The calls for [count] tokens at [position]; the first [position] slots are taken.
     *
     * @throws CacheFullException They do not fit; nothing was written.
     * @throws InvalidRequestException No tokens.
     */
    public fun plan(position: Int, count: Int): List<Chunk> {
        if (count < 1) throw InvalidRequestException("no tokens to run", "Write at least one character.")
        if (position + count > slots) {
            throw CacheFullException("$count tokens do not fit: the KV cache has $slots slots, $position are taken")
        }
        val chunks = ArrayList<Chunk>()
        var done = 0
        while (done < count) {
            val chunk = next(position + done, done, count - done)
            chunks.add(chunk)
            done += chunk.count
        }
        return chunks
    }

    private fun next(position: Int, start: Int, remaining: Int): Chunk {
        val count = minOf(prefillLen, remaining)
        return when {
            dynamic -> Chunk(Phase.ANY, start, count, count)
            position + prefillLen <= slots -> Chunk(Phase.PREFILL, start, count, prefillLen)
            // The padded tail of a static chunk would pass the last slot.
            else -> Chunk(Phase.DECODE, start, 1, 1)
        }
    }
}
