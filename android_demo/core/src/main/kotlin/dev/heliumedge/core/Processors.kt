package dev.heliumedge.core

/** Token ids in the order in which they came: the prompt and what was chosen since. */
public class TokenLog {
    private var ids = IntArray(256)

    /** How many there are. */
    public var size: Int = 0
        private set

    /** The id at [index]. */
    public operator fun get(index: Int): Int {
        if (index !in 0 until size) throw IndexOutOfBoundsException("$index of $size tokens")
        return ids[index]
    }

    /** Appends one. */
    public fun add(id: Int) {
        if (size == ids.size) ids = ids.copyOf(2 * size)
        ids[size++] = id
    }

    /** Appends several. */
    public fun addAll(more: IntArray): Unit = more.forEach(::add)

    /** Keeps the first [count]. */
    public fun truncate(count: Int) {
        if (count !in 0..size) throw IndexOutOfBoundsException("$count of $size tokens")
        size = count
    }

    /** How many ids, up to [limit], it and [others] begin with alike. */
    internal fun commonPrefix(others: IntArray, limit: Int): Int {
        var count = 0
        while (count < minOf(limit, size) && others[count] == ids[count]) count++
        return count
    }

    /** A copy of all. */
    public fun toArray(): IntArray = ids.copyOf(size)
}

/**
 * What changes logits before a token is chosen, by the tokens so far: repetition penalty, then n-grams that may not
 * repeat, then tokens that are never chosen. Arithmetic is float32, as in the Python host.
 *
 * @param scores Where the sampler keeps the row that it chooses from.
 */
internal class Processors(private val scores: FloatArray, private val options: SamplingOptions) {
    private val penalty = options.repetitionPenalty.toFloat()
    private val penalised = BooleanArray(if (penalty == 1f) 0 else scores.size)

    /** Changes the logits in [scores]. */
    fun apply(context: TokenLog) {
        if (penalty != 1f) penalise(context)
        if (options.noRepeatNgramSize > 0) ruleOutRepetitions(context, options.noRepeatNgramSize)
        for (id in options.suppressTokens) ruleOut(id)
    }

    private fun penalise(context: TokenLog) {
        for (index in 0 until context.size) {
            val id = context[index]
            if (id !in scores.indices || penalised[id]) continue
            penalised[id] = true
            scores[id] = if (scores[id] < 0) scores[id] * penalty else scores[id] / penalty
        }
        for (index in 0 until context.size) if (context[index] in scores.indices) penalised[context[index]] = false
    }

    private fun ruleOutRepetitions(context: TokenLog, size: Int) {
        val last = context.size - size + 1
        for (start in 0 until last) {
            if ((0 until size - 1).all { context[start + it] == context[last + it] }) ruleOut(context[start + size - 1])
        }
    }

    private fun ruleOut(id: Int) {
        if (id in scores.indices) scores[id] = Float.NEGATIVE_INFINITY
    }
}
