package dev.heliumedge.core

/**
 * Ends a text at the first of some strings: what may be the beginning of one is held back until that is known.
 *
 * A string may begin in what stands before the text and ends behind it, and may spell special tokens, which no text
 * shows. The same as in the Python host, and in transformers.
 *
 * @param before The end of what stands before the text.
 * @throws InvalidRequestException One of them is empty.
 */
public class StopStrings(private val strings: List<String>, before: String = "") {
    private val held = StringBuilder(before)

    /** For each character of [held] whether it is shown. */
    private val shown = ArrayDeque(List(before.length) { false })

    /** Characters of [held] that stood there before the last text was added: no string ends among them any more. */
    private var old = before.length

    /** Whether one of them came; there is no text after it. */
    public var found: Boolean = false
        private set

    init {
        if (strings.any { it.isEmpty() }) throw InvalidRequestException("a stop string is empty", "Leave it out.")
    }

    /**
     * Adds text and returns what can be shown now.
     *
     * @param show Whether it is shown at all; if not, it counts for the strings alone.
     */
    public fun push(text: String, show: Boolean = true): String {
        if (strings.isEmpty()) return if (show) text else ""
        if (found) return ""
        held.append(text)
        repeat(text.length) { shown.addLast(show) }
        val start = strings.map { held.indexOf(it, maxOf(0, old + 1 - it.length)) }.filter { it >= 0 }.minOrNull()
        if (start != null) {
            found = true
            return take(start)
        }
        val kept = (minOf(held.length, strings.maxOf { it.length } - 1) downTo 1).firstOrNull { length ->
            val end = held.substring(held.length - length)
            strings.any { it.startsWith(end) }
        } ?: 0
        return take(held.length - kept)
    }

    /** Returns the rest, which is no stop string any more. */
    public fun finish(): String = if (found) "" else take(held.length)

    private fun take(count: Int): String {
        val text = StringBuilder()
        for (index in 0 until count) if (shown.removeFirst()) text.append(held[index])
        held.delete(0, count)
        old = maxOf(0, old - count)
        return text.toString()
    }
}
