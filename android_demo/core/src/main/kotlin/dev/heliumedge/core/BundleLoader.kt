package dev.heliumedge.core

import java.io.File

/** Kinds of tokenizers that are implemented, as manifests call them. */
private val TOKENIZERS = listOf("unigram", "bpe")

/** Opens a runtime for a bundle; the app has one for each runtime that it was built with. */
public fun interface EngineFactory {
    /** @throws HeliumException It cannot be opened. */
    public fun open(bundle: BundleFolder, threads: Int, allocator: BufferAllocator): GraphEngine
}

/**
 * What the user chose.
 *
 * @property runtime The runtime that bundles must be for; null takes what the bundle says.
 * @property threads Threads within an operator; 0 lets the runtime choose.
 * @property contextTokens Longest conversation; 0 is what the cache holds.
 * @property generation What is wanted in place of the bundle's own defaults.
 */
public data class Settings(
    val runtime: Runtime? = null,
    val threads: Int = 0,
    val contextTokens: Int = 0,
    val generation: GenerationOverrides = GenerationOverrides(),
    val seed: Long = 0,
) {
    /** The longest conversation with a bundle. */
    public fun contextOf(manifest: Manifest): Int =
        if (contextTokens in 1 until manifest.cacheLen) contextTokens else manifest.cacheLen
}

/**
 * A bundle that is ready to run: a [decoder] or, for classifiers, a [classifier].
 *
 * @property loadNanos What the runtime took to load its graphs.
 */
public class LoadedBundle internal constructor(
    public val bundle: BundleFolder,
    public val tokenizer: Tokenizer,
    public val engineName: String,
    public val decoder: Decoder?,
    public val classifier: Classifier?,
    public val loadNanos: Long,
) : AutoCloseable {
    /** The manifest. */
    public val manifest: Manifest get() = bundle.manifest

    /**
     * Continues a text in a new conversation.
     *
     * @param reuse Run only what the cache does not hold already, from the call before or from [loadCache].
     * @throws CacheFullException The prompt is longer than the context.
     * @throws HeliumException What [Generation.run] throws.
     */
    public fun generate(prompt: String, settings: Settings, stop: StopSignal, stats: GenerationStats, reuse: Boolean = false, listener: TokenListener) {
        val decoder = textDecoder()
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
        val sampler = sampler(textDecoder(), wanted, settings.seed)
        val context = settings.contextOf(manifest)
        return conversations().answer(messages, sampler, wanted, stop, stats, context, settings.generation.lookahead, listener)
    }

    /**
     * Writes what the cache holds to a file, or its first [tokens]; see [PromptCache.save].
     *
     * @throws InvalidRequestException The cache is empty, or the bundle has none.
     * @throws StorageException The file cannot be written.
     */
    public fun saveCache(file: File, tokens: Int = Int.MAX_VALUE): Int = PromptCache.save(file, textDecoder(), bundle.manifestSha256(), tokens)

    /**
     * Fills the cache from a file of [saveCache] or of the Python host; a text with `reuse`, or a conversation, that
     * begins with its tokens is not run again so far.
     *
     * @return How many tokens the cache holds then.
     * @throws PromptCacheException The file is missing, truncated, of another kind or of another bundle.
     */
    public fun loadCache(file: File): Int = PromptCache.load(file, textDecoder(), bundle.manifestSha256())

    private fun textDecoder(): Decoder =
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
        conversations ?: Conversations(textDecoder(), tokenizer, manifest).also { conversations = it }

    private var conversations: Conversations? = null

    private fun sampler(decoder: Decoder, wanted: GenerationDefaults, seed: Long) =
        Sampler(decoder.vocabSize, SamplingOptions.of(wanted), SeededUniforms(seed))

    override fun close() {
        decoder?.close()
        classifier?.close()
    }
}

/**
 * Everything that is checked before a bundle takes memory, in the order of what it costs: manifest and sizes, runtime,
 * memory, sha256 of every file; then the graphs are loaded, under the [guard].
 *
 * @param factories The runtimes of this build.
 * @param availableMemory Bytes that the system would give now.
 */
public class BundleLoader(
    private val factories: Map<Runtime, EngineFactory>,
    private val allocator: BufferAllocator,
    private val guard: CrashGuard,
    private val log: VerificationLog?,
    private val availableMemory: () -> Long,
) {
    /** Opens and checks a bundle and its memory, without loading it; the estimate is for the screen. */
    public fun inspect(folder: File, settings: Settings): Pair<BundleFolder, MemoryEstimate> {
        val bundle = BundleFolder.open(folder)
        factoryOf(bundle.manifest, settings)
        val kind = bundle.manifest.tokenizerKind
        if (kind !in TOKENIZERS) throw TokenizerException(Phrase.TOKENIZER_KIND.with(kind, TOKENIZERS.joinToString()), Phrase.OTHER_TOKENIZER.with())
        return bundle to MemoryEstimate.of(bundle.manifest, settings.contextOf(bundle.manifest))
    }

    /**
     * Loads a bundle.
     *
     * @param anyway Load also what the estimate says there is no memory for: what is free is a figure of the moment, and
     *   the system may end other apps for it.
     * @param progress Called with the bytes verified so far and in all; return false to stop.
     * @return Null when [progress] stopped it.
     * @throws WrongRuntimeException This build has not got the bundle's runtime, or another one is wanted.
     * @throws NotEnoughMemoryException The device has too little free memory.
     * @throws HeliumException What [BundleFolder.open], [BundleFolder.verify] and the runtime throw.
     */
    public fun load(folder: File, settings: Settings, anyway: Boolean = false, progress: (Long, Long) -> Boolean = { _, _ -> true }): LoadedBundle? {
        val (bundle, estimate) = inspect(folder, settings)
        if (!anyway) estimate.check(availableMemory())
        if (!bundle.verify(log, progress)) return null
        val tokenizer = Tokenizer.open(bundle.file(bundle.manifest.tokenizerFile))
        return guard.loading(folder.name) { open(bundle, tokenizer, settings) }
    }

    private fun open(bundle: BundleFolder, tokenizer: Tokenizer, settings: Settings): LoadedBundle {
        val start = Clock.System.nanos()
        val engine = factoryOf(bundle.manifest, settings).open(bundle, settings.threads, allocator)
        var decoder: Decoder? = null
        try {
            val classifier = if (bundle.manifest.task != Task.LANGUAGE_MODEL) Classifier(bundle.manifest, engine) else null
            decoder = if (classifier == null) Decoder(bundle.manifest, engine, allocator) else null
            // Everything now, under the guard: what is too much ends the process here and not in the first text.
            decoder?.warmUp()
            return LoadedBundle(bundle, tokenizer, engine.name, decoder, classifier, Clock.System.nanos() - start)
        } catch (error: Throwable) {
            // A cache of gigabytes is not left to the garbage collector.
            decoder?.close() ?: engine.close()
            throw error
        }
    }

    private fun factoryOf(manifest: Manifest, settings: Settings): EngineFactory {
        val runtime = Runtime.values().firstOrNull { it.id == manifest.runtime }
        if (settings.runtime != null && settings.runtime != runtime) {
            throw WrongRuntimeException(
                Phrase.OTHER_RUNTIME_WANTED.with(manifest.name, manifest.runtime, settings.runtime.id), Phrase.CHOOSE_RUNTIME.with(),
            )
        }
        return factories[runtime] ?: throw WrongRuntimeException(
            Phrase.NO_SUCH_RUNTIME.with(manifest.name, manifest.runtime, factories.keys.joinToString { it.id }), Phrase.INSTALL_FULL.with(),
        )
    }
}
