package dev.heliumedge.core

/**
 * What the manifest says of conversations.
 *
 * @property form The template as data; null where it cannot be said so, for the [reason].
 * @property reason Why there is no form, or why it takes no system message.
 * @property stop Ids that end an answer.
 */
public data class ChatSpec(val form: ChatForm?, val reason: String?, val stop: Set<Int>)

/** Ids of a conversation, and how many of its oldest messages were [dropped]. */
public class FittedConversation(public val ids: IntArray, public val dropped: Int)

/** What an answer took: tokens that the cache had already, and the oldest messages that were left out. */
public data class AnswerFacts(val reusedTokens: Int, val droppedMessages: Int)

/**
 * Conversations over one [decoder]: each answer runs only what the cache does not hold already, and when it is full the
 * oldest turns go; the system message stays. One thread at a time.
 *
 * @throws InvalidRequestException The bundle has no chat template, or one that only Jinja can render.
 */
public class Conversations(
    private val decoder: Decoder,
    private val tokenizer: Tokenizer,
    private val manifest: Manifest,
) {
    private val form: ChatForm
    private val encoder: SpanEncoder

    /** Ids that end an answer. */
    public val stop: Set<Int>

    init {
        val chat = manifest.chat ?: throw InvalidRequestException(Phrase.NO_TEMPLATE.with(manifest.name), Phrase.CONTINUE_INSTEAD.with())
        form = chat.form ?: throw InvalidRequestException(
            Phrase.JINJA_ONLY.with(manifest.name, chat.reason.orEmpty()), Phrase.OTHER_TEMPLATE.with(),
        )
        stop = chat.stop + manifest.tokens.eos
        encoder = SpanEncoder(tokenizer, form.fixedTexts(), stop + listOfNotNull(manifest.tokens.bos, manifest.tokens.pad))
    }

    /**
     * Token ids of a conversation, up to where the answer begins.
     *
     * @param parseSpecial Whether text of users that spells a special token becomes one.
     * @throws InvalidRequestException No such conversation.
     */
    public fun ids(messages: List<ChatMessage>, parseSpecial: Boolean = false): IntArray {
        val spans = form.spans(messages)
        return encoder.encode(if (parseSpecial) spans.map { it.copy(own = true) } else spans)
    }

    /**
     * Answers a conversation; the listener gets the tokens as those of [Generation.run].
     *
     * @param wanted How long an answer may be, and which texts end it; how tokens are chosen is the [sampler]'s.
     * @param contextTokens Longest conversation; at most what the cache holds.
     * @param lookahead Most tokens to guess, as of [Generation].
     * @throws CacheFullException Not even the last turn fits.
     * @throws HeliumException What [Generation.run] throws.
     */
    public fun answer(
        messages: List<ChatMessage>,
        sampler: Sampler,
        wanted: GenerationDefaults = manifest.generation,
        stopSignal: StopSignal = StopSignal(),
        stats: GenerationStats = GenerationStats(),
        contextTokens: Int = decoder.cacheLen,
        lookahead: Int = 0,
        listener: TokenListener,
    ): AnswerFacts {
        val generation = Generation(decoder, tokenizer, stop, stopStrings = wanted.stopStrings, continuing = false, lookahead = lookahead)
        val room = contextTokens - minOf(wanted.newTokensBehind(0), contextTokens / 4)
        val fitted = fitConversation(::ids, messages, room, decoder.tokens)
        val shared = decoder.follow(fitted.ids)
        // Where the context is the whole cache, that ends the answer by itself.
        val most = if (contextTokens < decoder.cacheLen) contextTokens - fitted.ids.size + 1 else Int.MAX_VALUE
        stats.reusedTokens = shared
        stats.droppedMessages = fitted.dropped
        generation.run(fitted.ids.copyOfRange(shared, fitted.ids.size), sampler, minOf(wanted.newTokensBehind(fitted.ids.size), most), stopSignal, stats, listener)
        return AnswerFacts(shared, fitted.dropped)
    }
}

/**
 * Which turns of a conversation fit in [room] tokens: as much is left out that half of the room is free, unless the
 * cache holds a longer part already. The same as in the Python host.
 */
internal fun fitConversation(
    encode: (List<ChatMessage>) -> IntArray,
    messages: List<ChatMessage>,
    room: Int,
    cached: TokenLog,
): FittedConversation {
    var ids = encode(messages)
    if (ids.size <= room) return FittedConversation(ids, 0)
    val opening = if (messages.first().role == ChatRole.SYSTEM) 1 else 0
    val last = messages.size - opening - 1
    var best: FittedConversation? = null
    for (dropped in 2..last step 2) {
        ids = encode(messages.take(opening) + messages.drop(opening + dropped))
        if (ids.size <= room && 2 * cached.commonPrefix(ids, ids.size) >= ids.size) return FittedConversation(ids, dropped)
        val fits = ids.size <= room / 2 || (dropped == last && ids.size <= room)
        if (best == null && fits) best = FittedConversation(ids, dropped)
    }
    return best ?: throw CacheFullException(Phrase.TURN_TOO_LONG.with(ids.size, room))
}
