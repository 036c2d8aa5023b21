package dev.heliumedge.core

/** Guesses from which on their worth is judged. */
private const val TRIED = 3

/** Tokens without a guess once guesses do not pay; doubled each time. */
private const val REST = 16
private const val LONGEST_REST = 256

/** Share of the past in the running means of times and tokens. */
private const val MEMORY = 0.8

/**
 * Whether guesses pay, by the time that calls take; while they do not, it lets some tokens pass without. The same as in
 * the Python host.
 *
 * @property clock What calls are timed by.
 */
public class Worth(public val clock: Clock = Clock.System) {
    // NaN before there is a time.
    private var step = Double.NaN
    private var call = Double.NaN
    private var gain = 1.0
    private var tried = 0
    private var rest = REST
    private var resting = 0

    /** Whether a guess is to be made for the next token, asked once for each; there is a step to compare with first. */
    public fun wantsGuess(): Boolean {
        if (resting > 0) {
            resting--
            return false
        }
        return !step.isNaN()
    }

    /** A single step took so long. */
    public fun stepped(nanos: Long) {
        step = mean(step, nanos.toDouble())
    }

    /** A call with a guess took so long and gave so many tokens, at least 1. */
    public fun guessed(nanos: Long, tokens: Int) {
        call = mean(call, nanos.toDouble())
        gain = mean(gain, tokens.toDouble())
        tried++
        if (step.isNaN() || tried < TRIED) return
        if (gain * step < call) {
            resting = rest
            rest = minOf(2 * rest, LONGEST_REST)
            call = Double.NaN
            gain = 1.0
            tried = 0
        } else if (tokens > 1) {
            rest = REST
        }
    }

    private fun mean(before: Double, now: Double): Double = if (before.isNaN()) now else MEMORY * before + (1 - MEMORY) * now
}
