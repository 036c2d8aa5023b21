package dev.heliumedge.core

private const val REPLACEMENT = "\uFFFD"

/** The characters that stand for bytes in a vocabulary, as of GPT-2: no byte is a blank or a control character. */
internal object ByteLevel {
    private val characters = CharArray(256)
    private val bytes = IntArray(512) { -1 }

    init {
        var hidden = 256
        for (byte in 0..255) {
            val prints = byte in 0x21..0x7E || byte in 0xA1..0xAC || byte in 0xAE..0xFF
            characters[byte] = if (prints) byte.toChar() else (hidden++).toChar()
            bytes[characters[byte].code] = byte
        }
    }

    /** The bytes of a text, a character each. */
    fun spell(text: String): String {
        val utf8 = text.toByteArray(Charsets.UTF_8)
        return String(CharArray(utf8.size) { characters[utf8[it].toInt() and 0xff] })
    }

    /** The bytes that a piece stands for; one that is not spelled in bytes, as of an added token, stands for itself. */
    fun bytesOf(piece: String): ByteArray {
        val found = ByteArray(piece.length)
        for (at in piece.indices) {
            val byte = bytes.getOrElse(piece[at].code) { -1 }
            if (byte < 0) return piece.toByteArray(Charsets.UTF_8)
            found[at] = byte.toByte()
        }
        return found
    }
}

/** The words of GPT-2, which byte-level tokenizers cut by that name no expression of their own. */
private const val WORDS = """'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

/** One cut of a text: matches become pieces, and so does what stands between them where [keepsRest]. */
internal class Split(private val expression: Expression, private val keepsRest: Boolean) {
    inline fun cut(text: String, piece: (String) -> Unit) = expression.cut(text, keepsRest, piece)
}

/** How text is cut before it is spelled in bytes: by each of [splits] in turn, then into words where [findsWords]. */
internal class ByteLevelCutting(
    splits: List<Split>,
    /** Whether what [splits] leave gets a blank in front where it has none. */
    private val prefixesBlank: Boolean,
    findsWords: Boolean,
) {
    private val before = splits.size
    private val all = if (findsWords) splits + Split(Expression(WORDS), keepsRest = true) else splits

    /** Hands out the pieces of a text, spelled in bytes. */
    fun cut(text: String, piece: (String) -> Unit) = cut(text, 0, piece)

    private fun cut(part: String, done: Int, piece: (String) -> Unit) {
        if (part.isEmpty()) return
        val text = if (done == before && prefixesBlank && part[0] != ' ') " $part" else part
        if (done == all.size) piece(ByteLevel.spell(text)) else all[done].cut(text) { cut(it, done + 1, piece) }
    }
}

/**
 * UTF-8 in any portions to text, with U+FFFD for each maximal part that begins a character and does not end it, as the
 * library has it; decoders of the JDK and of Android differ from that and from each other.
 */
internal class Utf8Stream {
    private var point = 0
    private var missing = 0
    private var allowed = 0x80..0xBF

    /** The text that is complete with these bytes. */
    fun push(bytes: ByteArray): String = buildString {
        for (byte in bytes) next(byte.toInt() and 0xff)
    }

    /** What an incomplete character at the end reads as. */
    fun finish(): String = if (missing > 0) REPLACEMENT.also { missing = 0 } else ""

    private fun StringBuilder.next(byte: Int) {
        if (missing > 0) {
            if (byte in allowed) {
                point = (point shl 6) or (byte and 0x3F)
                allowed = 0x80..0xBF
                if (--missing == 0) appendCodePoint(point)
                return
            }
            append(REPLACEMENT)
            missing = 0
        }
        // Second bytes that would make a longer form than needed, a surrogate or more than U+10FFFF are not allowed.
        when (byte) {
            in 0x00..0x7F -> append(byte.toChar())
            in 0xC2..0xDF -> begin(byte and 0x1F, 1)
            0xE0 -> begin(0, 2, least = 0xA0)
            0xED -> begin(0x0D, 2, most = 0x9F)
            in 0xE1..0xEF -> begin(byte and 0x0F, 2)
            0xF0 -> begin(0, 3, least = 0x90)
            0xF4 -> begin(4, 3, most = 0x8F)
            in 0xF1..0xF3 -> begin(byte and 0x07, 3)
            else -> append(REPLACEMENT)
        }
    }

    private fun begin(bits: Int, more: Int, least: Int = 0x80, most: Int = 0xBF) {
        point = bits
        missing = more
        allowed = least..most
    }
}
