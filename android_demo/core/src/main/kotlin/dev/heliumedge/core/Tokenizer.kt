package dev.heliumedge.core

import java.io.File

/**
 * Text to token ids and back, by the checkpoint's own `tokenizer.json`; ids are those of the Hugging Face library.
 *
 * Not changed after construction, so that threads may share one.
 */
public class Tokenizer private constructor(private val file: TokenizerFile) {
    private val model = UnigramModel(file)

    /** Tokens that are found in the raw text, before anything else. */
    internal val addedTokens: List<AddedToken> get() = file.addedTokens
    private val added = file.addedTokens.sortedByDescending { it.content.length }
    private val addedById = file.addedTokens.associateBy { it.id }

    /** Number of tokens, added ones included. */
    public val vocabSize: Int = maxOf(file.pieces.size, (file.addedTokens.maxOfOrNull { it.id } ?: -1) + 1)

    /**
     * Token ids of a text, with what the file's template puts around it (Helium: `<s>` in front).
     *
     * Text that spells a special token, as `<s>`, gives that token, as in the reference.
     *
     * @throws InvalidRequestException The text holds half of a surrogate pair.
     */
    public fun encode(text: String): IntArray {
        checkUnicode(text)
        val ids = IntList()
        for (id in file.idsBefore) ids.add(id)
        encodeWithout(text, emptySet(), added, ids)
        for (id in file.idsAfter) ids.add(id)
        return ids.toArray()
    }

    /** Token ids of a text, without what the file's template puts around it. */
    internal fun encodeBare(text: String): IntArray {
        checkUnicode(text)
        return IntList().also { encodeWithout(text, emptySet(), added, it) }.toArray()
    }

    /**
     * Appends the ids of a text.
     *
     * @param hidden Pieces that are not used.
     * @param tokens Added tokens that are found in it, longest first.
     */
    internal fun encodeWithout(text: String, hidden: Set<Int>, tokens: List<AddedToken>, ids: IntList) {
        checkUnicode(text)
        val firstCharacters = tokens.mapTo(HashSet()) { it.content[0] }
        var start = 0
        var at = 0
        while (at < text.length) {
            val token = if (text[at] in firstCharacters) tokens.firstOrNull { text.startsWith(it.content, at) } else null
            if (token == null) {
                at++
                continue
            }
            val end = at + token.content.length
            if (!token.singleWord || !touchesWord(text, at, end)) {
                encodeSegment(text.substring(start, at), hidden, ids)
                ids.add(token.id)
                start = end
            }
            at = end
        }
        encodeSegment(text.substring(start), hidden, ids)
    }

    /** Text of token ids; special tokens and ids without a token have none. */
    public fun decode(ids: IntArray): String {
        val stream = stream()
        return buildString {
            for (id in ids) append(stream.push(id))
            append(stream.finish())
        }
    }

    /**
     * A decoder for ids that come one by one.
     *
     * @param continuing Whether text stands before the first id, as a prompt does; its leading blank is then kept.
     */
    public fun stream(continuing: Boolean = false): StreamDecoder = StreamDecoder(this, if (continuing) 0 else file.stripStart)

    /** The piece of an id, or null for special tokens and ids without one. */
    internal fun visiblePiece(id: Int): String? {
        val token = addedById[id] ?: return file.pieces.getOrNull(id)
        return if (token.special) null else token.content
    }

    /** The byte that a piece stands for, or -1. */
    internal fun byteOf(piece: String): Int {
        if (piece.length != 6 || !piece.startsWith("<0x") || piece[5] != '>') return -1
        val high = Character.digit(piece[3], 16)
        val low = Character.digit(piece[4], 16)
        return if (high < 0 || low < 0) -1 else high * 16 + low
    }

    /** The text that a piece without a byte reads as. */
    internal fun textOf(piece: String): String =
        file.decoderReplacements.fold(piece) { text, (from, to) -> text.replace(from, to) }

    private fun encodeSegment(segment: String, hidden: Set<Int>, ids: IntList) {
        if (segment.isEmpty()) return
        val text = file.replacements.fold(file.prepend + segment) { all, (from, to) -> all.replace(from, to) }
        val cut = file.splitAt
        if (cut == null) {
            model.encode(text, ids, hidden)
            return
        }
        var start = 0
        var at = text.indexOf(cut)
        while (at >= 0) {
            model.encode(text.substring(start, at), ids, hidden)
            start = at
            while (text.startsWith(cut, at)) at += cut.length
            model.encode(text.substring(start, at), ids, hidden)
            start = at
            at = text.indexOf(cut, start)
        }
        model.encode(text.substring(start), ids, hidden)
    }

    public companion object {
        /**
         * Reads a `tokenizer.json`.
         *
         * @throws TokenizerException It is damaged, or of a kind that is not implemented.
         * @throws MissingFileException It is not there.
         */
        public fun open(file: File): Tokenizer = Tokenizer(TokenizerFile.read(file))
    }
}

private fun checkUnicode(text: String) {
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        if (point in 0xD800..0xDFFF) {
            throw InvalidRequestException("the text is not valid Unicode at character $at", "Delete that character and try again.")
        }
        at += Character.charCount(point)
    }
}

private fun touchesWord(text: String, start: Int, end: Int): Boolean =
    (start > 0 && isWord(text.codePointBefore(start))) || (end < text.length && isWord(text.codePointAt(end)))

/** Unicode's `\w`: letters, marks, decimal digits, connectors and the two joiners. */
private fun isWord(point: Int): Boolean = Character.isAlphabetic(point) || when (Character.getType(point).toByte()) {
    Character.NON_SPACING_MARK, Character.ENCLOSING_MARK, Character.COMBINING_SPACING_MARK,
    Character.DECIMAL_DIGIT_NUMBER, Character.CONNECTOR_PUNCTUATION,
    -> true
    else -> point == 0x200C || point == 0x200D
}
