package dev.heliumedge.core

/**
 * Token ids of a text in which only some parts may spell special tokens: a chat template's, not its users'.
 *
 * Ids are those of the whole text where no user's part spells a special token; where one does, it is cut into ordinary
 * pieces. The same as in the Python host.
 *
 * @param texts What the template writes itself: added tokens that it spells are special too.
 * @param ids Further ids that users must not spell, as those that end a text.
 */
public class SpanEncoder(private val tokenizer: Tokenizer, texts: List<String>, ids: Set<Int>) {
    // Line breaks and blanks may be added tokens, and are text all the same.
    private val guarded = tokenizer.addedTokens.filter { token ->
        token.content.any { !it.isWhitespace() } &&
            (token.special || token.id in ids || texts.any { it.contains(token.content) })
    }
    private val plain = Plain(tokenizer, guarded)
    private val forbidden = guarded.map { it.id }.toSet() + ids

    /**
     * Ids of the joined text, without what the tokenizer's own template puts around a text.
     *
     * @throws InvalidRequestException The text is no valid Unicode, or spells a special token that the vocabulary has no
     *   other pieces for.
     */
    public fun encode(spans: List<ChatSpan>): IntArray {
        val text = spans.joinToString("") { it.text }
        val own = BooleanArray(text.length)
        var at = 0
        for (span in spans) {
            own.fill(span.own, at, at + span.text.length)
            at += span.text.length
        }
        val spelled = text.indices.any { start ->
            val token = plain.longestAt(text, start)
            token != null && (start until start + token.content.length).any { !own[it] }
        }
        return if (spelled) apart(text, own) else tokenizer.encodeBare(text)
    }

    private fun apart(text: String, own: BooleanArray): IntArray {
        val ids = IntList()
        var done = 0
        var at = 0
        while (at < text.length) {
            val token = plain.longestAt(text, at)?.takeIf { found -> (at until at + found.content.length).all { own[it] } }
            if (token == null) {
                at++
                continue
            }
            val end = at + token.content.length
            encodePlain(text.substring(done, if (token.stripLeft) maxOf(done, blanksBefore(text, at)) else at), ids)
            ids.add(token.id)
            at = if (token.stripRight) blanksAfter(text, end) else end
            done = at
        }
        encodePlain(text.substring(done), ids)
        return ids.toArray()
    }

    private fun encodePlain(text: String, ids: IntList) {
        val from = ids.size
        tokenizer.encodeWithout(text, plain.hidden, plain.others, ids)
        for (index in from until ids.size) {
            if (ids[index] in forbidden) {
                throw InvalidRequestException(Phrase.SPELLS_SPECIAL.with(), Phrase.TAKE_OUT.with())
            }
        }
    }

    /** The added tokens that are kept apart, and those that stay. */
    private class Plain(tokenizer: Tokenizer, guarded: List<AddedToken>) {
        private val byLength = guarded.sortedByDescending { it.content.length }
        private val firstCharacters = guarded.map { it.content[0] }.toSet()
        val others = (tokenizer.addedTokens - guarded.toSet()).sortedByDescending { it.content.length }
        val hidden: Set<Int> = guarded.map { it.id }.toSet()

        fun longestAt(text: String, at: Int): AddedToken? =
            if (text[at] in firstCharacters) byLength.firstOrNull { text.startsWith(it.content, at) } else null
    }
}
