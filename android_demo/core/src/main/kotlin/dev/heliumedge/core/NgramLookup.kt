package dev.heliumedge.core

/** Tokens that must have stood together before; longer ones are looked for first. */
private const val LONGEST = 4
private const val SHORTEST = 2

/**
 * Finds where the last tokens of a text have stood before. The same as in the Python host.
 *
 * Keeps the text and three tables of numbers, which double as it grows; a token costs no other allocation.
 */
public class NgramLookup {
    private val text = TokenLog()
    private val tables = List(LONGEST - SHORTEST + 1) { NgramTable(text, SHORTEST + it) }

    /** Appends a token to the text. */
    public fun add(token: Int) {
        // What ends at the last token is known by what follows it, so that it is entered one token later.
        for (table in tables) if (table.length <= text.size) table.enterEnd()
        text.add(token)
    }

    /**
     * Guesses what follows: what followed where the text's end last stood.
     *
     * @param into Gets the tokens, from [from] on.
     * @param most Most of them.
     * @return How many there are; 0 where the end never stood before.
     */
    public fun guess(into: IntArray, from: Int, most: Int): Int {
        for (table in tables.asReversed()) {
            val start = if (table.length <= text.size) table.followsEnd() else 0
            if (start == 0) continue
            val count = minOf(most, text.size - start)
            for (index in 0 until count) into[from + index] = text[start + index]
            return maxOf(count, 0)
        }
        return 0
    }
}

/**
 * Where each run of [length] tokens last stood: an open hash table of the places behind them, which are never 0. The
 * runs themselves are compared in the text.
 */
private class NgramTable(private val text: TokenLog, val length: Int) {
    private var places = IntArray(256)
    private var used = 0

    /** Notes that the last tokens stand here. */
    fun enterEnd() {
        // At most half full, so that a search ends soon.
        if (2 * used >= places.size) grow()
        put(text.size)
    }

    /** The place behind where the last tokens stood before, or 0. */
    fun followsEnd(): Int = places[slotOf(text.size)]

    private fun put(place: Int) {
        val slot = slotOf(place)
        if (places[slot] == 0) used++
        places[slot] = place
    }

    private fun grow() {
        val before = places
        places = IntArray(2 * before.size)
        used = 0
        for (place in before) if (place != 0) put(place)
    }

    /** The slot of the run that ends in front of [place], or the free one where it belongs. */
    private fun slotOf(place: Int): Int {
        val mask = places.size - 1
        var slot = hash(place) and mask
        while (places[slot] != 0 && !isSame(places[slot], place)) slot = (slot + 1) and mask
        return slot
    }

    private fun hash(place: Int): Int {
        var hash = 0
        for (index in place - length until place) hash = (hash xor text[index]) * -0x61c88647
        return hash xor (hash ushr 15)
    }

    private fun isSame(one: Int, other: Int): Boolean {
        for (back in 1..length) if (text[one - back] != text[other - back]) return false
        return true
    }
}
