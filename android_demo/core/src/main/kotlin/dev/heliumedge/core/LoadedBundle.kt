package dev.heliumedge.core

import java.io.File

/**
 * A bundle that is ready to run: a [decoder] or, for classifiers, a [classifier].
 *
 * @property loadNanos What the runtime took to load its graphs and to run a first step, in nanoseconds.
 * @property settings What it was loaded with: its runtime and threads are these, whatever was chosen since.
 */
public class LoadedBundle internal constructor(
    public val bundle: BundleFolder,
    public val tokenizer: Tokenizer,
    public val engineName: String,
    public val decoder: Decoder?,
    public val classifier: Classifier?,
    public val loadNanos: Long,
    public val settings: Settings = Settings(),
) : AutoCloseable {
    /** The manifest. */
    public val manifest: Manifest get() = bundle.manifest

    /** Facts for a document, with the `threads` that are really used. */
    internal fun withThreads(facts: Map<String, Any?>): Map<String, Any?> = facts + ("threads" to settings.threads)

    /**
     * Continues a text in a new conversation.
     *
     * @param reuse Run only what the cache does not hold already, from the call before or from [loadCache].
     * @throws CacheFullException The prompt is longer than the context.
     * @throws HeliumException What [Generation.run] throws.
     */
    public fun generate(prompt: String, settings: Settings, stop: StopSignal, stats: GenerationStats, reuse: Boolean = false, listener: TokenListener) {
        val decoder = requireDecoder()
        val ids = tokenizer.encode(prompt)
        val context = settings.contextOf(manifest)
        if (ids.size > context) throw CacheFullException(Phrase.PROMPT_TOO_LONG.with(ids.size, context))
        val wanted = settings.generation.applyTo(manifest.generation)
        // One more than fits may be chosen: it is shown and not fed back.
        val most = minOf(wanted.newTokensBehind(ids.size), context - ids.size + 1)
        val generation = Generation(decoder, tokenizer, manifest.tokens.eos, stopStrings = wanted.stopStrings, lookahead = settings.generation.lookahead)
        if (reuse) stats.reusedTokens = decoder.follow(ids) else decoder.rewind()
        generation.run(ids.copyOfRange(stats.reusedTokens, ids.size), sampler(decoder, wanted, settings.seed), most, stop, stats, listener = listener)
    }

    /**
     * Answers a conversation; what the cache holds of it already is not run again.
     *
     * @throws InvalidRequestException The bundle cannot chat, or no such conversation.
     * @throws CacheFullException Not even the last turn fits.
     * @throws HeliumException What [Generation.run] throws.
     */
    public fun answer(
        messages: List<ChatMessage>,
        settings: Settings,
        stop: StopSignal,
        stats: GenerationStats,
        listener: TokenListener,
    ): AnswerFacts {
        val wanted = settings.generation.applyTo(manifest.generation)
        val sampler = sampler(requireDecoder(), wanted, settings.seed)
        val context = settings.contextOf(manifest)
        return conversations().answer(messages, sampler, wanted, stop, stats, context, settings.generation.lookahead, listener)
    }

    /**
     * Writes what the cache holds to a file, or its first [tokens]; see [PromptCache.save].
     *
     * @throws InvalidRequestException The cache is empty, or the bundle has none.
     * @throws StorageException The file cannot be written.
     */
    public fun saveCache(file: File, tokens: Int = Int.MAX_VALUE): Int = PromptCache.save(file, requireDecoder(), bundle.manifestSha256(), tokens)

    /**
     * Fills the cache from a file of [saveCache] or of the Python host; a text with `reuse`, or a conversation, that
     * begins with its tokens is not run again so far.
     *
     * @return How many tokens the cache holds then.
     * @throws PromptCacheException The file is missing, truncated, of another kind or of another bundle.
     */
    public fun loadCache(file: File): Int = PromptCache.load(file, requireDecoder(), bundle.manifestSha256())

    /** The decoder, or a refusal where the bundle classifies text. */
    internal fun requireDecoder(): Decoder =
        decoder ?: throw InvalidRequestException(Phrase.CLASSIFIES.with(manifest.name), Phrase.CHOOSE_TEXT_MODEL.with())

    /**
     * Refuses a bundle that cannot chat, by name.
     *
     * @throws InvalidRequestException It has no chat template, one that only Jinja can render, or classifies text.
     */
    public fun checkConversations() {
        conversations()
    }

    private fun conversations(): Conversations =
        conversations ?: Conversations(requireDecoder(), tokenizer, manifest).also { conversations = it }

    private var conversations: Conversations? = null

    private fun sampler(decoder: Decoder, wanted: GenerationDefaults, seed: Long) =
        Sampler(decoder.vocabSize, SamplingOptions.of(wanted), SeededUniforms(seed))

    override fun close() {
        decoder?.close()
        classifier?.close()
    }
}
