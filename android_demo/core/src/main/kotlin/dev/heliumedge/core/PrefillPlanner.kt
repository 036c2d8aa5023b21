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
 * @param widths Tokens of each static prefill graph; of a graph of phase `any`, the longest chunk alone.
 * @param slots Tokens that fit in the cache.
 * @param dynamic Whether one graph of phase `any` serves both phases.
 */
public class PrefillPlanner(widths: Collection<Int>, private val slots: Int, private val dynamic: Boolean) {
    private val widths = widths.sorted()

    /**
     * The calls for [count] tokens at [position]; the first [position] slots are taken.
     *
     * @throws CacheFullException They do not fit; nothing was written.
     * @throws InvalidRequestException No tokens.
     */
    public fun plan(position: Int, count: Int): List<Chunk> {
        if (count < 1) throw InvalidRequestException(Phrase.NO_TOKENS.with(), Phrase.WRITE_SOMETHING.with())
        if (position + count > slots) {
            throw CacheFullException(Phrase.TOKENS_DO_NOT_FIT.with(count, slots, position))
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
        if (dynamic) return minOf(widths.last(), remaining).let { Chunk(Phase.ANY, start, it, it) }
        val width = nextWidth(remaining, room = slots - position)
        return Chunk(if (width == 1) Phase.DECODE else Phase.PREFILL, start, minOf(width, remaining), width)
    }

    /**
     * Tokens of the next call: of the narrowest graph that holds all [remaining] tokens, if they fill half of it or no
     * narrower one is there, otherwise of the widest that they fill. 1 is a decode step: for a single token, and where
     * the padding of no graph fits in the [room] of the cache.
     */
    private fun nextWidth(remaining: Int, room: Int): Int {
        val fitting = widths.filter { it <= room }
        if (remaining == 1 || fitting.isEmpty()) return 1
        val filled = fitting.lastOrNull { it <= remaining }
        val enough = fitting.firstOrNull { it >= remaining }
        return if (enough != null && (filled == null || 2 * remaining >= enough)) enough else filled!!
    }
}
