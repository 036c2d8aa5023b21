package dev.heliumedge.core

import kotlin.math.abs

/** Half of the last decimal that the exporter records. */
private const val ROUNDING = 1e-5

/**
 * How a device compares with the bundle's golden trace.
 *
 * @property passed Whether ids, first logits and every choice agree.
 * @property steps Greedy choices that were compared.
 * @property nearTies Steps whose other choice lies within the tolerance: a tie, not a fault.
 * @property worstLogit Largest difference of the first logits.
 * @property said One line for the user.
 */
public data class SelfTestResult(
    val passed: Boolean,
    val steps: Int,
    val nearTies: List<Int>,
    val worstLogit: Double,
    val said: Said,
) {
    /** The same in English. */
    val message: String get() = said.text
}

/**
 * Replays the golden trace: first the tokenizer, then one prefill, then the loop, feeding the recorded tokens back, so
 * that a near tie does not end the comparison.
 *
 * @param tolerance Largest difference of logits that counts as equal; by default what the bundle allows a processor of
 *   another kind than the exporter's.
 */
public class SelfTest(
    private val manifest: Manifest,
    private val tokenizer: Tokenizer,
    private val decoder: Decoder,
    private val tolerance: Double = manifest.golden?.tolerance ?: DEFAULT_TOLERANCE,
) {
    /**
     * Runs it in a new conversation; the decoder is rewound before and afterwards.
     *
     * @throws InvalidRequestException The bundle has no golden trace.
     * @throws HeliumException What the decoder throws.
     */
    public fun run(stop: StopSignal = StopSignal()): SelfTestResult {
        val trace = manifest.golden ?: throw InvalidRequestException(Phrase.NO_GOLDEN.with(manifest.name), Phrase.EXPORT_CURRENT.with())
        val ids = tokenizer.encode(trace.prompt)
        if (!ids.contentEquals(trace.promptIds)) {
            return failed(0, "the tokenizer gives ${ids.toList()} for the prompt, recorded ${trace.promptIds.toList()}")
        }
        decoder.rewind()
        return try {
            replay(trace, stop)
        } finally {
            decoder.rewind()
        }
    }

    private fun replay(trace: GoldenTrace, stop: StopSignal): SelfTestResult {
        val row = FloatArray(decoder.vocabSize)
        decoder.prefill(trace.promptIds, stop)?.read(row) ?: return stopped(0)
        val worst = trace.top5First.maxOfOrNull { abs(row[it.id] - it.logit) } ?: 0.0
        if (!(worst <= tolerance + ROUNDING)) {
            return failed(0, "after the prompt a logit is off by $worst; allowed $tolerance", worst)
        }
        val nearTies = ArrayList<Int>()
        for ((step, expected) in trace.greedyIds.withIndex()) {
            if (step > 0) decoder.decode(trace.greedyIds[step - 1], stop)?.read(row) ?: return stopped(step)
            val chosen = largest(row)
            if (chosen == expected) continue
            val lead = row[chosen].toDouble() - row[expected]
            if (trace.margins[step] > tolerance + ROUNDING || lead > tolerance) {
                val margin = trace.margins[step]
                return failed(step, "step $step chooses token $chosen, recorded $expected with a margin of $margin", worst)
            }
            nearTies.add(step)
        }
        val said = Phrase.TEST_PASSED.with(trace.greedyIds.size, nearTies.size)
        return SelfTestResult(true, trace.greedyIds.size, nearTies, worst, said)
    }

    private fun failed(step: Int, why: String, worst: Double = 0.0) =
        SelfTestResult(false, step, emptyList(), worst, Phrase.TEST_FAILED.with(why))

    private fun stopped(step: Int) = SelfTestResult(false, step, emptyList(), 0.0, Phrase.TEST_STOPPED.with(step))

    public companion object {
        /** For bundles that say nothing: int4 on a processor of another kind than the exporter's. */
        public const val DEFAULT_TOLERANCE: Double = 0.5
    }
}
