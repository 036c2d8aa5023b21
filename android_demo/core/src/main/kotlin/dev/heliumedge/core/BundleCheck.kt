package dev.heliumedge.core

/** Kinds of tokenizers that are implemented, as manifests call them. */
private val TOKENIZERS = listOf("unigram", "bpe")

/**
 * Whether this build of an app can run a bundle, as far as its manifest alone tells: nothing else of it is looked at, so
 * that an import asks before it copies, and a load before it hashes.
 *
 * @param factories The runtimes of this build.
 */
public class BundleCheck(private val factories: Map<Runtime, EngineFactory>) {
    /**
     * Refuses what cannot run.
     *
     * @param runtime The runtime that bundles must be for; null takes what the bundle says.
     * @throws WrongRuntimeException This build has not got the runtime or too old a version of it, or another one is wanted.
     * @throws TokenizerException The tokenizer is of a kind that is not implemented.
     * @throws InvalidRequestException It neither continues nor labels a text.
     * @throws HeliumException What the runtime refuses: [EngineFactory.check].
     */
    public fun check(manifest: Manifest, runtime: Runtime? = null) {
        val factory = factoryOf(manifest, runtime)
        val kind = manifest.tokenizerKind
        if (kind !in TOKENIZERS) throw TokenizerException(Phrase.TOKENIZER_KIND.with(kind, TOKENIZERS.joinToString()), Phrase.OTHER_TOKENIZER.with())
        if (manifest.task != Task.LANGUAGE_MODEL) Classifier.graphOf(manifest)
        // Last: it may load a library to ask it for its version.
        factory.check(manifest)
    }

    internal fun factoryOf(manifest: Manifest, wanted: Runtime?): EngineFactory {
        if (wanted != null && wanted.id != manifest.runtime) {
            throw WrongRuntimeException(
                Phrase.OTHER_RUNTIME_WANTED.with(manifest.name, manifest.runtime, wanted.id), Phrase.CHOOSE_RUNTIME.with(),
            )
        }
        return factories.getValue(RuntimeCheck.requireRuntime(manifest, factories.keys))
    }
}
