package dev.heliumedge.core

/** Why a text ended. */
public enum class StopReason {
    /** The model ended the text. */
    EOS,

    /** The limit of new tokens is reached. */
    LENGTH,

    /** The KV cache is full. */
    CACHE_FULL,

    /** One of the stop strings came. */
    STOP_STRING,

    /** The user stopped it. */
    STOPPED,
}

/** A clock in nanoseconds; only differences count. */
public fun interface Clock {
    public fun nanos(): Long

    /** The clock of the machine. */
    public object System : Clock {
        override fun nanos(): Long = java.lang.System.nanoTime()
    }
}

/** What a generation did so far; read it at any time, also from the listener. */
public class GenerationStats {
    /** Tokens of the prompt that were run. */
    public var promptTokens: Int = 0
        internal set

    /** Tokens of the prompt that the cache held already. */
    public var reusedTokens: Int = 0
        internal set

    /** Oldest messages of a conversation that were left out, because it did not fit. */
    public var droppedMessages: Int = 0
        internal set

    /** Tokens given to the listener. */
    public var newTokens: Int = 0
        internal set

    /** Time for the prompt. */
    public var prefillNanos: Long = 0
        internal set

    /** Prefill and the choice of the first token. */
    public var firstTokenNanos: Long = 0
        internal set

    /** Tokens fed back. */
    public var decodeSteps: Int = 0
        internal set

    /** Calls of the graphs for them: fewer where guesses were right, otherwise one for each. */
    public var decodeCalls: Int = 0
        internal set

    /** Tokens that were guessed; see [Lookahead]. */
    public var guessedTokens: Int = 0
        internal set

    /** Guesses that were chosen, whose steps had been done already. */
    public var acceptedTokens: Int = 0
        internal set

    /** Time for these steps, each with the choice of its token; the listener's own time is not in. */
    public var decodeNanos: Long = 0
        internal set

    /** Null while it runs. */
    public var stopReason: StopReason? = null
        internal set

    /** Speed on the prompt; 0 before it ran. */
    public val prefillTokensPerSecond: Double get() = perSecond(promptTokens, prefillNanos)

    /** Speed after the first token; 0 when one token was all. */
    public val decodeTokensPerSecond: Double get() = perSecond(decodeSteps, decodeNanos)

    private fun perSecond(count: Int, nanos: Long): Double = if (nanos == 0L) 0.0 else count * 1e9 / nanos
}

/** Gets each token as it comes. */
public fun interface TokenListener {
    /**
     * @param token The id.
     * @param text What can be shown now; often none while a character is incomplete.
     */
    public fun onToken(token: Int, text: String)
}

/**
 * The generate loop: prefill, pick, show, decode, until something ends it. Works in the calling thread.
 *
 * @param eos Ids that end a text; the listener does not get them.
 * @param stopStrings Texts that end it; the listener does not get their text. They end behind the prompt, and may begin
 *   in it.
 * @param continuing Whether text stands before the first token, whose leading blank is then kept.
 * @param lookahead Most tokens to guess from the text so far and run in one call, up to [Lookahead.MOST_GUESSED]; 0 guesses
 *   none. What is generated stays the same.
 * @throws InvalidRequestException Guesses are wanted of graphs that return the logits of one token alone
 *   ([Decoder.givesRows]), or [lookahead] is out of range.
 */
public class Generation(
    private val decoder: Decoder,
    private val tokenizer: Tokenizer,
    private val eos: Set<Int>,
    private val clock: Clock = Clock.System,
    private val stopStrings: List<String> = emptyList(),
    private val continuing: Boolean = true,
    private val lookahead: Int = 0,
) {
    init {
        if (lookahead != 0) Lookahead.checkPossible(decoder, lookahead)
    }

    /**
     * Continues a prompt; the decoder keeps what is in its cache, so a second call carries the text on. The sampler is
     * shown all of it.
     *
     * @param promptIds Ids to append before the first new one.
     * @param sampler Chooses each token.
     * @param maxNewTokens Upper bound of the tokens given to [listener]; end tokens are not given.
     * @param stop Ends it: inside prefill after the chunk that runs, later before the next token.
     * @param stats Filled in along the way.
     * @return [stats], complete.
     * @throws CacheFullException The prompt does not fit; nothing was written.
     * @throws HeliumException What [Decoder.prefill], [Decoder.decode], [Decoder.decodeRows] and [Sampler.pick] throw.
     */
    public fun run(
        promptIds: IntArray,
        sampler: Sampler,
        maxNewTokens: Int,
        stop: StopSignal = StopSignal(),
        stats: GenerationStats = GenerationStats(),
        listener: TokenListener,
    ): GenerationStats {
        if (maxNewTokens < 1) throw InvalidRequestException(Phrase.OUT_OF_RANGE.with("$maxNewTokens new tokens"), Phrase.ALLOWED_FROM.with(1))
        val start = clock.nanos()
        val row = decoder.prefill(promptIds, stop)
        if (row != null) {
            stats.promptTokens = promptIds.size
            stats.prefillNanos = clock.nanos() - start
            val first = sampler.pick(row.buffer, row.offset, decoder.tokens)
            stats.firstTokenNanos = clock.nanos() - start
            stats.stopReason = loop(first, Chooser(sampler, stop, stats), maxNewTokens, listener)
        } else {
            stats.stopReason = StopReason.STOPPED
        }
        return stats
    }

    private fun loop(first: Int, chooser: Chooser, maxNewTokens: Int, listener: TokenListener): StopReason {
        val text = tokenizer.stream(continuing)
        val stopText = StopStrings(stopStrings, endOfPrompt())
        var token = first
        var reason = endBefore(token, chooser.stop)
        while (reason == null) {
            chooser.stats.newTokens++
            listener.onToken(token, stopText.push(text.push(token)) + stopText.push(tokenizer.unshown(token), show = false))
            reason = endAfter(chooser.stats, maxNewTokens, stopText)
            if (reason == null) {
                token = chooser.next(token)
                reason = endBefore(token, chooser.stop)
            }
        }
        val rest = stopText.push(text.finish()) + stopText.finish()
        if (rest.isNotEmpty()) listener.onToken(NO_TOKEN, rest)
        return if (stopText.found) StopReason.STOP_STRING else reason
    }

    /** As much of the prompt's end as a stop string may begin in; a character has up to 4 bytes, each a token. */
    private fun endOfPrompt(): String {
        val longest = stopStrings.maxOfOrNull { it.length } ?: return ""
        val ids = decoder.cachedTokens()
        return tokenizer.spell(ids.copyOfRange(maxOf(0, ids.size - 4 * longest), ids.size)).takeLast(longest)
    }

    private fun endBefore(token: Int, stop: StopSignal): StopReason? = when {
        token in eos -> StopReason.EOS
        token == NO_TOKEN || stop.isRequested -> StopReason.STOPPED
        else -> null
    }

    private fun endAfter(stats: GenerationStats, maxNewTokens: Int, stopText: StopStrings): StopReason? = when {
        stopText.found -> StopReason.STOP_STRING
        stats.newTokens == maxNewTokens -> StopReason.LENGTH
        // The last token was chosen from a full cache: there is no slot to feed it back.
        decoder.position >= decoder.cacheLen -> StopReason.CACHE_FULL
        else -> null
    }

    /** Feeds tokens back and chooses the next ones. */
    private inner class Chooser(
        private val sampler: Sampler,
        val stop: StopSignal,
        val stats: GenerationStats,
    ) {
        /** Knows the prompt, which is in the cache by now. */
        private val ahead = if (lookahead > 0) Lookahead(decoder, lookahead, Worth(clock)) else null

        /** The token after [token], or [NO_TOKEN] when [stop] ended the call. */
        fun next(token: Int): Int {
            val start = clock.nanos()
            val logits = decode(token) ?: return NO_TOKEN
            val next = sampler.pick(logits.buffer, logits.offset, decoder.tokens)
            stats.decodeSteps++
            stats.decodeNanos += clock.nanos() - start
            return next
        }

        private fun decode(token: Int): Logits? {
            if (ahead == null) return decoder.decode(token, stop)?.also { stats.decodeCalls++ }
            return ahead.decode(token, stop).also {
                stats.decodeCalls = ahead.calls
                stats.guessedTokens = ahead.guessed
                stats.acceptedTokens = ahead.accepted
            }
        }
    }

    public companion object {
        /** The id that comes with text of bytes that never became a character, at the end. */
        public const val NO_TOKEN: Int = -1
    }
}
