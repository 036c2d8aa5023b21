package dev.heliumedge.core

import java.io.File

/**
 * Everything that is checked before a bundle takes memory, in the order of what it costs: manifest and sizes, what this
 * build can run, memory, sha256 of every file; then the graphs are loaded and run once, under the [guard].
 *
 * @param factories The runtimes of this build.
 * @param availableMemory Bytes that the system would give now.
 */
public class BundleLoader(
    factories: Map<Runtime, EngineFactory>,
    private val allocator: BufferAllocator,
    private val guard: CrashGuard,
    private val log: VerificationLog?,
    private val availableMemory: () -> Long,
) {
    private val suitable = BundleCheck(factories)

    /**
     * Refuses a bundle that this build cannot run, by its manifest alone: for [BundleImporter], before anything is copied.
     *
     * @throws HeliumException What [BundleCheck.check] throws.
     */
    public fun check(manifest: Manifest): Unit = suitable.check(manifest)

    /**
     * Opens and checks a bundle and its memory, without loading it; the estimate is for the screen.
     *
     * @throws HeliumException What [BundleFolder.open] and [BundleCheck.check] throw.
     */
    public fun inspect(folder: File, settings: Settings): Pair<BundleFolder, MemoryEstimate> {
        val bundle = BundleFolder.open(folder)
        suitable.check(bundle.manifest, settings.runtime)
        return bundle to MemoryEstimate.of(bundle.manifest, settings.contextOf(bundle.manifest))
    }

    /**
     * Loads a bundle.
     *
     * @param anyway Load also what the estimate says there is no memory for: what is free is a figure of the moment, and
     *   the system may end other apps for it.
     * @param stop Ends the loading of graphs and the first step; what was taken is free again.
     * @param progress Called with the bytes verified so far and in all; return false to stop.
     * @return Null when [progress] or [stop] ended it.
     * @throws NotEnoughMemoryException The device has too little free memory.
     * @throws HeliumException What [inspect], [BundleFolder.verify] and the runtime throw.
     */
    public fun load(
        folder: File,
        settings: Settings,
        anyway: Boolean = false,
        stop: StopSignal? = null,
        progress: (Long, Long) -> Boolean = { _, _ -> true },
    ): LoadedBundle? {
        val (bundle, estimate) = inspect(folder, settings)
        if (!anyway) estimate.check(availableMemory())
        if (!bundle.verify(log, progress)) return null
        val tokenizer = Tokenizer.open(bundle.file(bundle.manifest.tokenizerFile))
        return guard.loading(folder.name) { open(bundle, tokenizer, settings, stop) }
    }

    private fun open(bundle: BundleFolder, tokenizer: Tokenizer, settings: Settings, stop: StopSignal?): LoadedBundle? {
        val start = Clock.System.nanos()
        val engine = suitable.factoryOf(bundle.manifest, settings.runtime).open(bundle, settings.threads, allocator)
        var decoder: Decoder? = null
        var classifier: Classifier? = null
        try {
            classifier = if (bundle.manifest.task != Task.LANGUAGE_MODEL) Classifier(bundle.manifest, engine) else null
            decoder = if (classifier == null) Decoder(bundle.manifest, engine, allocator) else null
            // Everything now, under the guard: what is too much ends the process here and not in the first text.
            if (decoder?.warmUp(stop) == false || classifier?.warmUp(stop) == false) {
                decoder?.close()
                classifier?.close()
                return null
            }
            return LoadedBundle(bundle, tokenizer, engine.name, decoder, classifier, Clock.System.nanos() - start, settings)
        } catch (error: Throwable) {
            // A cache of gigabytes is not left to the garbage collector.
            decoder?.close() ?: classifier?.close() ?: engine.close()
            throw error
        }
    }
}
