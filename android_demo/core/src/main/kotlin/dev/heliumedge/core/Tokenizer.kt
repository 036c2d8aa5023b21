package dev.heliumedge.core

import java.io.File
import java.text.Normalizer

/**
 * Text to token ids and back, by the checkpoint's own `tokenizer.json`; ids are those of the Hugging Face library.
 *
 * Not changed after construction, so that threads may share one.
 */
public class Tokenizer private constructor(private val file: TokenizerFile) {
    private val model: PieceModel = file.merges?.let { BpeModel(file, it) } ?: UnigramModel(file)

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
        val (later, now) = tokens.partition { it.normalized }
        val inNormalized = later.map { it to normalize(it.content) }.sortedByDescending { it.second.length }
        cut(text, now.map { it to it.content }, ids) { start, end ->
            val segment = normalize(text.substring(start, end))
            cut(segment, inNormalized, ids) { from, to ->
                encodeSegment(segment.substring(from, to), start == 0 && from == 0, hidden, ids)
            }
        }
    }

    /** Appends the ids of the tokens in a text, and hands what stands between them to [rest]; longer tokens come first. */
    private inline fun cut(text: String, tokens: List<Pair<AddedToken, String>>, ids: IntList, rest: (Int, Int) -> Unit) {
        val firstCharacters = tokens.mapTo(HashSet()) { it.second[0] }
        var done = 0
        var at = 0
        while (at < text.length) {
            val match = if (text[at] in firstCharacters) tokens.firstOrNull { text.startsWith(it.second, at) } else null
            if (match == null) {
                at++
                continue
            }
            val token = match.first
            val end = at + match.second.length
            if (!token.singleWord || !touchesWord(text, at, end)) {
                val start = if (token.stripLeft) maxOf(done, blanksBefore(text, at)) else at
                if (done < start) rest(done, start)
                ids.add(token.id)
                done = if (token.stripRight) blanksAfter(text, end) else end
            }
            // Not behind the blanks that were taken: they may spell a token, which the library then has as well.
            at = end
        }
        if (done < text.length) rest(done, text.length)
    }

    private fun normalize(text: String): String {
        val composed = if (file.composes) Normalizer.normalize(text, Normalizer.Form.NFC) else text
        val whole = if (file.prepending == Prepending.EACH) file.prepend + composed else composed
        return file.replacements.fold(whole) { all, (from, to) -> all.replace(from, to) }
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

    /** Text of ids as it reads behind some other text, with that of special tokens. */
    internal fun spell(ids: IntArray): String {
        val stream = StreamDecoder(this, 0, spells = true)
        return buildString {
            for (id in ids) append(stream.push(id))
            append(stream.finish())
        }
    }

    /** Text of a special token, which no text shows; that of others is empty. */
    internal fun unshown(id: Int): String = if (addedById[id]?.special == true) spell(intArrayOf(id)) else ""

    /** The piece of an id, or null for special tokens and ids without one. */
    internal fun visiblePiece(id: Int, specials: Boolean = false): String? {
        val token = addedById[id] ?: return file.pieces.getOrNull(id)
        if (token.special) return if (specials) token.content else null
        return if (token.normalized) normalize(token.content) else token.content
    }

    /** Whether pieces are spelled in bytes, so that a character may begin in one and end in another. */
    internal val decodesBytes: Boolean get() = file.decodesBytes

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

    private fun encodeSegment(segment: String, first: Boolean, hidden: Set<Int>, ids: IntList) {
        val prepends = when (file.prepending) {
            Prepending.EACH -> false
            Prepending.EACH_WITHOUT -> !segment.startsWith(file.prepend)
            Prepending.FIRST_WITHOUT -> first && !segment.startsWith(file.prepend)
        }
        val text = if (prepends) file.prepend + segment else segment
        if (file.byteLevel != null) {
            file.byteLevel.cut(text) { model.encode(it, ids, hidden) }
            return
        }
        val cut = file.splitAt
        if (cut == null) {
            model.encode(text, ids, hidden)
            return
        }
        if (file.splitsBefore) {
            var start = 0
            while (start < text.length) {
                val next = text.indexOf(cut, start + 1)
                val end = if (next < 0) text.length else next
                model.encode(text.substring(start, end), ids, hidden)
                start = end
            }
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
            throw InvalidRequestException(Phrase.BAD_UNICODE.with(at), Phrase.DELETE_CHARACTER.with())
        }
        at += Character.charCount(point)
    }
}

internal fun blanksBefore(text: String, end: Int): Int {
    var at = end
    while (at > 0 && isBlank(text[at - 1])) at--
    return at
}

internal fun blanksAfter(text: String, start: Int): Int {
    var at = start
    while (at < text.length && isBlank(text[at])) at++
    return at
}

/** Unicode's White_Space; that of Kotlin has four control characters more. */
private fun isBlank(c: Char): Boolean =
    c in '\t'..'\r' || c == '\u0085' || Character.isSpaceChar(c)

private fun touchesWord(text: String, start: Int, end: Int): Boolean =
    (start > 0 && isWord(text.codePointBefore(start))) || (end < text.length && isWord(text.codePointAt(end)))

/** Unicode's `\w`: letters, marks, decimal digits, connectors and the two joiners. */
private fun isWord(point: Int): Boolean = Character.isAlphabetic(point) || when (Character.getType(point).toByte()) {
    Character.NON_SPACING_MARK, Character.ENCLOSING_MARK, Character.COMBINING_SPACING_MARK,
    Character.DECIMAL_DIGIT_NUMBER, Character.CONNECTOR_PUNCTUATION,
    -> true
    else -> point == 0x200C || point == 0x200D
}
