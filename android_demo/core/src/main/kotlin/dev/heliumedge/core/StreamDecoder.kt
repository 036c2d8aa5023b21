package dev.heliumedge.core

import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CodingErrorAction

private const val REPLACEMENT = "\uFFFD"

/**
 * Turns ids that come one by one into text; what all calls return, joined, is the text of all ids.
 *
 * Text is held back during a run of byte tokens, because whether they are characters is known at its end; of a
 * byte-level tokenizer only a character that is not whole yet is. One thread at a time; get one with
 * [Tokenizer.stream].
 */
public class StreamDecoder internal constructor(
    private val tokenizer: Tokenizer,
    private var blanksToStrip: Int,
    /** Whether special tokens have text as well. */
    private val spells: Boolean = false,
) {
    private var bytes = ByteArray(16)
    private var count = 0
    private val byteLevel = if (tokenizer.decodesBytes) Utf8Stream() else null
    private val utf8 = Charsets.UTF_8.newDecoder()
        .onMalformedInput(CodingErrorAction.REPORT)
        .onUnmappableCharacter(CodingErrorAction.REPORT)

    /** Adds one id and returns the text that is now complete, often none. */
    public fun push(id: Int): String {
        val piece = tokenizer.visiblePiece(id, spells) ?: return ""
        if (byteLevel != null) return byteLevel.push(ByteLevel.bytesOf(piece))
        val byte = tokenizer.byteOf(piece)
        if (byte < 0) return strip(endOfRun() + tokenizer.textOf(piece))
        if (count == bytes.size) bytes = bytes.copyOf(2 * count)
        bytes[count++] = byte.toByte()
        return ""
    }

    /** Returns the rest; bytes that are no whole characters read U+FFFD. */
    public fun finish(): String = byteLevel?.finish() ?: strip(endOfRun())

    private fun endOfRun(): String {
        if (count == 0) return ""
        val chars = CharBuffer.allocate(count)
        utf8.reset()
        val failed = utf8.decode(ByteBuffer.wrap(bytes, 0, count), chars, true).isError
        val text = if (failed) REPLACEMENT.repeat(count) else String(chars.array(), 0, chars.position())
        count = 0
        return text
    }

    /** Takes the blanks from the very start of the text. */
    private fun strip(text: String): String {
        if (blanksToStrip == 0 || text.isEmpty()) return text
        val blanks = text.takeWhile { it == ' ' }.length.coerceAtMost(blanksToStrip)
        // More may follow only while everything so far was blank.
        blanksToStrip = if (blanks == text.length) blanksToStrip - blanks else 0
        return text.substring(blanks)
    }
}
