package dev.heliumedge.core

import java.util.PriorityQueue

private const val EMPTY = -1L

/** Cuts normalized text into pieces of a vocabulary. */
internal interface PieceModel {
    /** Appends the ids of a text, which may be empty; [hidden] pieces are not used. */
    fun encode(text: String, ids: IntList, hidden: Set<Int> = emptySet())
}

/**
 * Byte-pair encoding (Sennrich et al. 2016) of the SentencePiece kind: characters, those without a piece as their bytes,
 * joined by the merge of lowest rank, the leftmost first. Choices beyond that are those of the Hugging Face library.
 */
internal class BpeModel(private val file: TokenizerFile, private val merges: BpeMerges) : PieceModel {
    private val trie = PieceTrie(file.pieces)
    private val byteIds = IntArray(256) { trie.find("<0x%02X>".format(it)) }

    override fun encode(text: String, ids: IntList, hidden: Set<Int>) {
        if (text.isEmpty()) return
        if (merges.ignoredForWhole) {
            val whole = trie.find(text)
            if (whole >= 0 && whole !in hidden) {
                ids.add(whole)
                return
            }
        }
        val symbols = characters(text, hidden).toArray()
        merge(symbols)
        for (symbol in symbols) if (symbol >= 0) ids.add(symbol)
    }

    /** Ids of the single characters; neighbouring unknown ones are one where the file fuses them. */
    private fun characters(text: String, hidden: Set<Int>): IntList {
        val symbols = IntList()
        var unknown = false
        var at = 0
        while (at < text.length) {
            val width = Character.charCount(text.codePointAt(at))
            val character = text.substring(at, at + width)
            at += width
            val id = trie.find(character)
            if (id >= 0 && id !in hidden) {
                if (unknown) file.unknownId?.let(symbols::add)
                unknown = false
                symbols.add(id)
                continue
            }
            if (file.byteFallback) {
                val bytes = character.toByteArray(Charsets.UTF_8)
                if (bytes.all { byteIds[it.toInt() and 0xff] >= 0 }) {
                    // An unknown character before it waits: the library writes it before the next known one only.
                    for (byte in bytes) symbols.add(byteIds[byte.toInt() and 0xff])
                    continue
                }
            }
            if (unknown && !merges.fusesUnknown) file.unknownId?.let(symbols::add)
            // Without an unknown piece the character is left out, as by the library.
            unknown = file.unknownId != null
        }
        if (unknown) file.unknownId?.let(symbols::add)
        return symbols
    }

    /** Joins neighbours in place; a symbol that became part of the one before it is -1. */
    private fun merge(symbols: IntArray) {
        val next = IntArray(symbols.size) { if (it + 1 < symbols.size) it + 1 else -1 }
        val previous = IntArray(symbols.size) { it - 1 }
        val queue = PriorityQueue<Candidate>()
        fun offer(at: Int) {
            if (at < 0 || next[at] < 0) return
            val found = merges.find(symbols[at], symbols[next[at]])
            if (found != EMPTY) queue.add(Candidate((found ushr 32).toInt(), at, found.toInt()))
        }
        for (at in symbols.indices) offer(at)
        while (true) {
            val top = queue.poll() ?: return
            val right = if (symbols[top.at] < 0) -1 else next[top.at]
            // What stands there may have been joined with others since.
            if (right < 0) continue
            val now = merges.find(symbols[top.at], symbols[right])
            if (now == EMPTY || now.toInt() != top.id) continue
            symbols[top.at] = top.id
            symbols[right] = -1
            next[top.at] = next[right]
            if (next[right] >= 0) previous[next[right]] = top.at
            offer(previous[top.at])
            offer(top.at)
        }
    }

    private class Candidate(val rank: Int, val at: Int, val id: Int) : Comparable<Candidate> {
        override fun compareTo(other: Candidate): Int =
            if (rank != other.rank) rank.compareTo(other.rank) else at.compareTo(other.at)
    }
}

/**
 * Rank and result of each pair of ids that is joined: an open-addressed table, because 580,000 boxed entries cost a phone
 * more than the vocabulary.
 */
internal class BpeMerges(
    count: Int,
    /** Whether neighbouring unknown characters are one unknown piece. */
    val fusesUnknown: Boolean,
    /** Whether a text that is a piece is that piece, whatever the merges say. */
    val ignoredForWhole: Boolean,
) {
    private val mask = Integer.highestOneBit(maxOf(8, count)) * 4 - 1
    private val pairs = LongArray(mask + 1) { EMPTY }
    private val found = LongArray(mask + 1)

    /** Adds a pair; of equal pairs the last one counts, as in the library. */
    fun add(left: Int, right: Int, rank: Int, id: Int) {
        val slot = slot(left, right)
        pairs[slot] = pair(left, right)
        found[slot] = pair(rank, id)
    }

    /** The rank in the upper half and the id of both together in the lower one, or -1. */
    fun find(left: Int, right: Int): Long {
        val slot = slot(left, right)
        return if (pairs[slot] == EMPTY) EMPTY else found[slot]
    }

    private fun slot(left: Int, right: Int): Int {
        val pair = pair(left, right)
        var hash = pair * -0x61c8864680b583ebL
        hash = hash xor (hash ushr 32)
        var slot = hash.toInt() and mask
        while (pairs[slot] != EMPTY && pairs[slot] != pair) slot = (slot + 1) and mask
        return slot
    }

    private fun pair(high: Int, low: Int): Long = (high.toLong() shl 32) or low.toLong()
}
