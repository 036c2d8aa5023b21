package dev.heliumedge.core

/**
 * Ends a text at the first of some strings: what may be the beginning of one is held back until that is known.
 *
 * @throws InvalidRequestException One of them is empty.
 */
public class StopStrings(private val strings: List<String>) {
    private val held = StringBuilder()

    /** Whether one of them came; there is no text after it. */
    public var found: Boolean = false
        private set

    init {
        if (strings.any { it.isEmpty() }) throw InvalidRequestException("a stop string is empty", "Leave it out.")
    }

    /** Adds text and returns what can be shown now. */
    public fun push(text: String): String {
        if (strings.isEmpty()) return text
        if (found) return ""
        held.append(text)
        val start = strings.map { held.indexOf(it) }.filter { it >= 0 }.minOrNull()
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
        val text = held.substring(0, count)
        held.delete(0, count)
        return text
    }
}
