package dev.heliumedge.core

/**
 * Prompt lookup decoding: several tokens from one call, without a second model.
 *
 * Where the last tokens of a text have stood in it before, what followed then is a guess at what follows now. A guess is
 * run together with the token before it, in one call that returns the logits of all of them. Each token is then chosen
 * from its own logits, by whatever chooses tokens; where the choice is the guess, its step has been done already. What is
 * generated is what single steps would generate, up to how kernels round one row and several. docs/performance.md says
 * where that pays, and where the idea is from.
 *
 * The decoder's position and tokens are those of the text at any time: a guess that nobody has chosen yet lies behind
 * them. For one generation, during which nobody else moves the decoder.
 *
 * @param most Most tokens of a guess, 1 to [MOST_GUESSED]; the first are shorter.
 * @param worth Says when to guess.
 * @throws InvalidRequestException The graphs return the logits of one token alone ([Decoder.givesRows]), or [most] is out
 *   of range.
 */
public class Lookahead(private val decoder: Decoder, private val most: Int = MOST_GUESSED, private val worth: Worth = Worth()) {
    init {
        checkPossible(decoder, most)
    }

    private val lookup = NgramLookup().also { for (index in 0 until decoder.tokens.size) it.add(decoder.tokens[index]) }

    /** The last call: a token, then those that were guessed behind it. */
    private val ids = IntArray(most + 1)
    private var rows: List<Logits> = emptyList()

    /** Index in [ids] of the guess that the next choice is compared with. */
    private var next = 0

    /** Tokens of the next guess. */
    private var length = minOf(FIRST_GUESS, most)

    /** What the last call with a guess took; judged when it is known how many of its tokens were chosen. */
    private var nanos = 0L

    /** Calls of the graphs. */
    public var calls: Int = 0
        private set

    /** Tokens that were guessed. */
    public var guessed: Int = 0
        private set

    /** Those of them that were chosen. */
    public var accepted: Int = 0
        private set

    /**
     * Appends one token.
     *
     * @return Its logits, which may have been computed already, or null when [stop] ended it; the cache is then as it was.
     * @throws HeliumException What [Decoder.decode] throws.
     */
    public fun decode(token: Int, stop: StopSignal? = null): Logits? {
        if (next < rows.size && ids[next] == token) {
            // Where single steps would run no further call there is no further token.
            if (stop != null && stop.isRequested) return null
            decoder.retake(token)
            lookup.add(token)
            accepted++
            return rows[next++]
        }
        judge()
        lookup.add(token)
        val room = decoder.cacheLen - decoder.position - 1
        val count = if (room > 0 && worth.wantsGuess()) lookup.guess(ids, 1, minOf(length, room)) else 0
        val row = if (count > 0) withGuess(token, count, stop) else alone(token, stop)
        if (row != null) calls++
        return row
    }

    private fun alone(token: Int, stop: StopSignal?): Logits? {
        val start = worth.clock.nanos()
        val row = decoder.decode(token, stop)
        if (row != null) worth.stepped(worth.clock.nanos() - start)
        return row
    }

    private fun withGuess(token: Int, count: Int, stop: StopSignal?): Logits? {
        val position = decoder.position
        ids[0] = token
        val start = worth.clock.nanos()
        val found = decoder.decodeRows(ids, count + 1, stop) ?: return null
        nanos = worth.clock.nanos() - start
        // The guesses stay in their slots, and are taken again when they are chosen.
        decoder.rewind(position + 1)
        rows = found
        next = 1
        guessed += count
        return found[0]
    }

    /** Ends the guess before, if there was one. */
    private fun judge() {
        if (rows.isEmpty()) return
        // Where the next guess is compared, so many tokens came of the call.
        worth.guessed(nanos, next)
        val right = next - 1
        length = minOf(if (right == rows.size - 1) 2 * length else maxOf(FIRST_GUESS, right + 1), most)
        rows = emptyList()
    }

    public companion object {
        /** Most tokens of a guess, and what to ask for where guesses are wanted. */
        public const val MOST_GUESSED: Int = 7

        /**
         * Tokens of the first guess. Each that is right throughout doubles the next, since a call of a few tokens costs
         * little where the guess is wrong.
         */
        private const val FIRST_GUESS = 2

        /** Refuses what cannot be done, before anything runs. */
        internal fun checkPossible(decoder: Decoder, most: Int) {
            if (most !in 1..MOST_GUESSED) throw outOfRange(most)
            decoder.requireRows()
        }

        internal fun outOfRange(most: Int) =
            InvalidRequestException(Phrase.OUT_OF_RANGE.with("lookahead $most"), Phrase.ALLOWED_BETWEEN.with(0, MOST_GUESSED))
    }
}
