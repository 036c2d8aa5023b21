package dev.heliumedge.core

/**
 * What somebody asks for in place of a bundle's own defaults of generation; null leaves what the bundle says. The same
 * as the options of the Python host.
 *
 * @property temperature 0 is greedy; any other value draws, also where the bundle's own choice is greedy.
 * @property topK Draw from the k most likely tokens, 0 from all.
 * @property topP Draw from the smallest set of most likely tokens that reaches it.
 * @property minP Draw from tokens at least this times as likely as the most likely one.
 * @property repetitionPenalty Above 1, tokens that stand in the text already become less likely.
 * @property noRepeatNgramSize No run of so many tokens comes twice; 0 allows all.
 * @property suppressTokens Ids that are never chosen; an empty list allows all.
 * @property stopStrings Texts that end a generation and are not shown; an empty list is none.
 * @property maxNewTokens Upper bound of the new tokens; the bundle's own bound of prompt and answer together, if it has
 *   one, then holds no more.
 * @property maxLength Upper bound of prompt and answer together; at least one token is generated.
 * @property lookahead Most tokens to guess from the text so far and run in one call, up to [Lookahead.MOST_GUESSED]; 0
 *   guesses none, and no bundle asks for it. What is generated stays the same.
 * @throws InvalidRequestException A value outside its range.
 */
public data class GenerationOverrides(
    val temperature: Double? = null,
    val topK: Int? = null,
    val topP: Double? = null,
    val minP: Double? = null,
    val repetitionPenalty: Double? = null,
    val noRepeatNgramSize: Int? = null,
    val suppressTokens: List<Int>? = null,
    val stopStrings: List<String>? = null,
    val maxNewTokens: Int? = null,
    val maxLength: Int? = null,
    val lookahead: Int = 0,
) {
    init {
        // Says what is wrong with each of the values that it has; the others are neutral.
        SamplingOptions.of(applyTo(NEUTRAL))
        suppressTokens?.firstOrNull { it < 0 }?.let { bad("suppressed token $it", Phrase.ALLOWED_WHOLE.with()) }
        stopStrings?.let(::StopStrings)
        if (maxNewTokens != null && maxNewTokens < 1) bad("$maxNewTokens new tokens", Phrase.ALLOWED_FROM.with(1))
        if (maxLength != null && maxLength < 1) bad("$maxLength tokens of prompt and answer", Phrase.ALLOWED_FROM.with(1))
        if (lookahead !in 0..Lookahead.MOST_GUESSED) throw Lookahead.outOfRange(lookahead)
    }

    /** The defaults of a bundle with these values in them. */
    public fun applyTo(defaults: GenerationDefaults): GenerationDefaults = GenerationDefaults(
        doSample = defaults.doSample || temperature != null,
        temperature = temperature ?: defaults.temperature,
        topK = topK ?: defaults.topK,
        topP = topP ?: defaults.topP,
        maxNewTokens = maxNewTokens ?: defaults.maxNewTokens,
        minP = minP ?: defaults.minP,
        repetitionPenalty = repetitionPenalty ?: defaults.repetitionPenalty,
        noRepeatNgramSize = noRepeatNgramSize ?: defaults.noRepeatNgramSize,
        suppressTokens = suppressTokens ?: defaults.suppressTokens,
        stopStrings = stopStrings ?: defaults.stopStrings,
        maxLength = maxLength ?: if (maxNewTokens == null) defaults.maxLength else null,
    )

    private fun bad(what: String, allowed: Said): Nothing = throw InvalidRequestException(Phrase.OUT_OF_RANGE.with(what), allowed)

    private companion object {
        val NEUTRAL = GenerationDefaults(doSample = false, temperature = 1.0, topK = 0, topP = 1.0, maxNewTokens = 1)
    }
}
