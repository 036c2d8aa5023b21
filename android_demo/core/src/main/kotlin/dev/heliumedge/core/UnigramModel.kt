package dev.heliumedge.core

private const val UNKNOWN_PENALTY = 10.0

/**
 * The most likely segmentation of a text into pieces (Kudo 2018, "Subword Regularization"), with the choices of the
 * Hugging Face library where several are equally likely, for unknown characters, and for their bytes.
 */
internal class UnigramModel(private val file: TokenizerFile) : PieceModel {
    private val trie = PieceTrie(file.pieces)
    private val unknownScore = (file.scores.minOrNull() ?: 0.0) - UNKNOWN_PENALTY
    private val byteIds = IntArray(256) { trie.find("<0x%02X>".format(it)) }

    /** Id of exactly this piece, or -1. */
    fun find(piece: String): Int = trie.find(piece)

    override fun encode(text: String, ids: IntList, hidden: Set<Int>) {
        if (text.isEmpty()) return
        val starts = IntArray(text.length + 1) { -1 }
        val pieces = IntArray(text.length + 1)
        search(text, starts, pieces, hidden)
        val cuts = IntList()
        var end = text.length
        while (end > 0) {
            cuts.add(end)
            var start = starts[end]
            // Neighbouring unknown characters are one unknown piece.
            if (pieces[end] < 0) while (start > 0 && pieces[start] < 0) start = starts[start]
            end = start
        }
        var start = 0
        for (index in cuts.size - 1 downTo 0) {
            val cut = cuts[index]
            if (pieces[cut] >= 0) ids.add(pieces[cut]) else addUnknown(text.substring(start, cut), ids)
            start = cut
        }
    }

    /** Fills in, for each end that can be reached, where its best piece starts and which one it is (-1 unknown). */
    private fun search(text: String, starts: IntArray, pieces: IntArray, hidden: Set<Int>) {
        val best = DoubleArray(text.length + 1)
        var start = 0
        while (start < text.length) {
            val width = Character.charCount(text.codePointAt(start))
            var single = false
            var node = 0
            var end = start
            while (end < text.length) {
                node = trie.child(node, text[end])
                if (node < 0) break
                end++
                val id = trie.idAt(node)
                if (id < 0 || (hidden.isNotEmpty() && id in hidden)) continue
                val score = best[start] + file.scores[id]
                // Only strictly better, so that of equally likely ones the first found stays.
                if (starts[end] < 0 || score > best[end]) {
                    best[end] = score
                    starts[end] = start
                    // The unknown piece itself, spelled out in a text, is unknown.
                    pieces[end] = if (id == file.unknownId) -1 else id
                }
                single = single || end - start == width
            }
            if (!single) {
                val next = start + width
                val score = best[start] + unknownScore
                if (starts[next] < 0 || score > best[next]) {
                    best[next] = score
                    starts[next] = start
                    pieces[next] = -1
                }
            }
            start += width
        }
    }

    private fun addUnknown(text: String, ids: IntList) {
        val whole = trie.find(text)
        if (whole >= 0) {
            ids.add(whole)
            return
        }
        if (file.byteFallback) {
            val bytes = text.toByteArray(Charsets.UTF_8)
            if (bytes.all { byteIds[it.toInt() and 0xff] >= 0 }) {
                for (byte in bytes) ids.add(byteIds[byte.toInt() and 0xff])
                return
            }
        }
        ids.add(file.unknownId ?: throw TokenizerException("the vocabulary has no piece for \"${text.take(20)}\" and no unk_id"))
    }
}

/** A growing list of ints without boxing. */
internal class IntList {
    private var values = IntArray(32)

    var size: Int = 0
        private set

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(2 * size)
        values[size++] = value
    }

    operator fun get(index: Int): Int = values[index]

    fun toArray(): IntArray = values.copyOf(size)
}
