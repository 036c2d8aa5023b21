package dev.heliumedge.core

import java.nio.FloatBuffer
import kotlin.math.exp

private const val FIRST_NUCLEUS = 256

/**
 * How the next token is chosen, in the order of transformers: repetition penalty, n-grams and suppressed tokens, which
 * look at the context and serve greedy choices as well; then temperature, top-k, top-p, min-p.
 *
 * @property temperature 0 takes the most likely token; otherwise logits are divided by it.
 * @property topK Only the k most likely tokens stay; 0 keeps all.
 * @property topP Only the smallest set of most likely tokens whose probabilities reach it stays; 1 keeps all.
 * @property minP Only tokens at least this times as likely as the most likely one stay; 0 keeps all.
 * @property repetitionPenalty Above 1, tokens that the context holds become less likely; 1 leaves them alone.
 * @property noRepeatNgramSize No run of so many tokens comes twice; 0 allows all.
 * @property suppressTokens Ids that are never chosen.
 * @throws InvalidRequestException A value outside its range.
 */
public data class SamplingOptions(
    val temperature: Double = 0.0,
    val topK: Int = 0,
    val topP: Double = 1.0,
    val minP: Double = 0.0,
    val repetitionPenalty: Double = 1.0,
    val noRepeatNgramSize: Int = 0,
    val suppressTokens: List<Int> = emptyList(),
) {
    init {
        if (!temperature.isFinite() || temperature < 0) bad("temperature $temperature", Phrase.ALLOWED_FROM.with(0))
        if (topK < 0) bad("top-k $topK", Phrase.ALLOWED_FROM.with(0))
        if (!(topP > 0 && topP <= 1)) bad("top-p $topP", Phrase.ALLOWED_ABOVE_TO.with(0, 1))
        if (!(minP >= 0 && minP <= 1)) bad("min-p $minP", Phrase.ALLOWED_BETWEEN.with(0, 1))
        if (!repetitionPenalty.isFinite() || repetitionPenalty <= 0) bad("repetition penalty $repetitionPenalty", Phrase.ALLOWED_ABOVE.with(0))
        if (noRepeatNgramSize < 0) bad("no-repeat n-gram size $noRepeatNgramSize", Phrase.ALLOWED_FROM.with(0))
    }

    /** Whether the tokens so far change the logits. */
    internal val looksAtContext: Boolean
        get() = repetitionPenalty != 1.0 || noRepeatNgramSize > 0 || suppressTokens.isNotEmpty()

    private fun bad(what: String, allowed: Said): Nothing = throw InvalidRequestException(Phrase.OUT_OF_RANGE.with(what), allowed)

    public companion object {
        /** The defaults of a bundle; greedy unless its checkpoint says otherwise. */
        public fun of(defaults: GenerationDefaults): SamplingOptions =
            SamplingOptions(
                temperature = if (defaults.doSample) defaults.temperature else 0.0,
                topK = defaults.topK,
                topP = defaults.topP,
                minP = defaults.minP,
                repetitionPenalty = defaults.repetitionPenalty,
                noRepeatNgramSize = defaults.noRepeatNgramSize,
                suppressTokens = defaults.suppressTokens,
            )
    }
}

/** The id with the largest of logits that are numbers; the lowest of several. */
internal fun largest(row: FloatArray): Int {
    var best = 0
    for (id in 1 until row.size) if (row[id] > row[best]) best = id
    return best
}

/** Where random numbers come from: each call gives one in [0, 1). */
public fun interface UniformSource {
    public fun next(): Double
}

/** Random numbers by SplitMix64 (Steele et al. 2014): the same seed gives the same numbers on every device. */
public class SeededUniforms(seed: Long) : UniformSource {
    private var state = seed

    override fun next(): Double {
        state += -0x61c8864680b583ebL
        var z = state
        z = (z xor (z ushr 30)) * -0x40a7b892e31b1a47L
        z = (z xor (z ushr 27)) * -0x6b2fb644ecceee15L
        return ((z xor (z ushr 31)) ushr 11) * DOUBLE_UNIT
    }

    private companion object {
        const val DOUBLE_UNIT = 1.0 / (1L shl 53)
    }
}

/**
 * Picks tokens, at most one random number each; equally likely tokens rank by id, the lowest first.
 *
 * Allocates for [vocabSize] once and nothing per token. One thread at a time.
 */
public class Sampler(
    private val vocabSize: Int,
    private val options: SamplingOptions,
    private val uniforms: UniformSource,
) {
    private val row = FloatArray(vocabSize)
    private val weights = DoubleArray(if (options.temperature == 0.0) 0 else vocabSize)
    private val ranked = IntArray(weights.size)
    private val processors = if (options.looksAtContext) Processors(row, options) else null

    /**
     * Chooses the next token.
     *
     * @param logits One row, V floats from [offset] on; -infinity rules a token out.
     * @param context The tokens so far; only the options that need it look at it.
     * @throws BadLogitsException The logits hold NaN or +infinity, or rule everything out.
     * @throws InvalidRequestException The options rule everything out.
     */
    public fun pick(logits: FloatBuffer, offset: Int = 0, context: TokenLog = NOTHING): Int {
        logits.read(offset, row)
        val best = argmax()
        if (processors == null) return choose(best)
        processors.apply(context)
        val bestOfScores = largest(row)
        if (row[bestOfScores].isInfinite()) {
            throw InvalidRequestException(Phrase.NO_TOKEN_LEFT.with(), Phrase.MILDER.with())
        }
        return choose(bestOfScores)
    }

    private fun choose(best: Int): Int {
        if (options.temperature == 0.0) return best
        val top = row[best].toDouble()
        for (id in 0 until vocabSize) weights[id] = exp((row[id].toDouble() - top) / options.temperature)
        val limit = if (options.topK == 0) vocabSize else minOf(options.topK, vocabSize)
        return when {
            options.topP < 1.0 -> drawRanked(likelyEnough(nucleus(limit)))
            limit < vocabSize -> {
                rank(limit)
                drawRanked(likelyEnough(limit))
            }
            else -> drawAll()
        }
    }

    /** How many of the first [count] ranked tokens min-p leaves; the largest weight is 1, so at least one. */
    private fun likelyEnough(count: Int): Int {
        var kept = count
        while (kept > 1 && weights[ranked[kept - 1]] < options.minP) kept--
        return kept
    }

    private fun argmax(): Int {
        var best = 0
        var top = Float.NEGATIVE_INFINITY
        for (id in 0 until vocabSize) {
            val logit = row[id]
            if (logit.isNaN()) throw BadLogitsException("the model returned NaN as the logit of token $id")
            if (logit > top) {
                top = logit
                best = id
            }
        }
        if (top.isInfinite()) throw BadLogitsException("the model returned $top as its largest logit, of token $best")
        return best
    }

    /** How many of the ranked tokens belong to the nucleus; they are ranked afterwards. */
    private fun nucleus(limit: Int): Int {
        var total = 0.0
        if (limit == vocabSize) {
            for (weight in weights) total += weight
        } else {
            rank(limit)
            for (index in 0 until limit) total += weights[ranked[index]]
        }
        // Nearly always enough, and far cheaper than to rank a whole vocabulary.
        var lookedAt = minOf(FIRST_NUCLEUS, limit)
        while (true) {
            rank(lookedAt)
            var cumulative = 0.0
            for (index in 0 until lookedAt) {
                cumulative += weights[ranked[index]]
                // The token that crosses top-p still belongs to the nucleus.
                if (cumulative >= options.topP * total) return index + 1
            }
            if (lookedAt == limit) return limit
            lookedAt = minOf(lookedAt * 8, limit)
        }
    }

    private fun drawRanked(count: Int): Int {
        var total = 0.0
        for (index in 0 until count) total += weights[ranked[index]]
        val target = uniforms.next() * total
        var cumulative = 0.0
        for (index in 0 until count) {
            cumulative += weights[ranked[index]]
            if (cumulative > target) return ranked[index]
        }
        return ranked[count - 1]
    }

    private fun drawAll(): Int {
        if (options.minP > 0) for (id in 0 until vocabSize) if (weights[id] < options.minP) weights[id] = 0.0
        var total = 0.0
        for (weight in weights) total += weight
        val target = uniforms.next() * total
        var cumulative = 0.0
        for (id in 0 until vocabSize) {
            cumulative += weights[id]
            if (cumulative > target) return id
        }
        return weights.indexOfLast { it > 0 }
    }

    /** Puts the [count] most likely ids at the front of [ranked], most likely first: a heap of that size. */
    private fun rank(count: Int) {
        for (id in 0 until count) ranked[id] = id
        for (parent in count / 2 - 1 downTo 0) sink(parent, count)
        for (id in count until vocabSize) {
            if (isLess(ranked[0], id)) {
                ranked[0] = id
                sink(0, count)
            }
        }
        for (end in count - 1 downTo 1) {
            swap(0, end)
            sink(0, end)
        }
    }

    /** Restores the heap, whose root is the least likely id, below [from]. */
    private fun sink(from: Int, size: Int) {
        var parent = from
        while (true) {
            var least = 2 * parent + 1
            if (least >= size) return
            if (least + 1 < size && isLess(ranked[least + 1], ranked[least])) least++
            if (!isLess(ranked[least], ranked[parent])) return
            swap(least, parent)
            parent = least
        }
    }

    private fun isLess(a: Int, b: Int): Boolean = weights[a] < weights[b] || (weights[a] == weights[b] && a > b)

    private fun swap(a: Int, b: Int) {
        val id = ranked[a]
        ranked[a] = ranked[b]
        ranked[b] = id
    }

    private companion object {
        val NOTHING = TokenLog()
    }
}
