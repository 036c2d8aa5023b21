package dev.heliumedge.core

/**
 * Everything that can go wrong, each with a name of its own and the remedy in its text.
 *
 * The core throws nothing else: what the JDK or a runtime throws is caught where it is called and named here.
 *
 * @property said What is wrong, where, and what was expected, for an app to say in its user's language.
 * @property remedy What to do about it, likewise.
 */
public sealed class HeliumException(
    public val said: Said,
    public val remedy: Said,
    cause: Throwable? = null,
) : Exception("${said.text}. ${remedy.text}", cause) {
    /** What is wrong in English: one line. */
    public val what: String get() = said.text

    /** What to do about it in English: one line. */
    public val fix: String get() = remedy.text
}

/** A folder without a manifest, or something that is no folder. */
public class NotABundleException(said: Said) : HeliumException(said, Phrase.CHOOSE_EXPORT.with())

/** A manifest that is not readable, or contradicts itself. */
public class ManifestException(what: String, cause: Throwable? = null) :
    HeliumException(Said("$MANIFEST_NAME: $what"), Phrase.EXPORT_OR_PUSH.with(), cause)

/** A manifest of a later major version. */
public class NewerBundleException(said: Said) : HeliumException(said, Phrase.UPDATE_APP.with()) {
    public constructor(what: String) : this(Said(what))
}

/** A manifest of an earlier major version. */
public class OlderBundleException(said: Said) : HeliumException(said, Phrase.EXPORT_CURRENT.with()) {
    public constructor(what: String) : this(Said(what))
}

/** A path in the manifest that would leave the bundle's folder. */
public class UnsafePathException(what: String) : HeliumException(Said(what), Phrase.DO_NOT_USE.with())

/** A listed file is not there. */
public class MissingFileException(said: Said) : HeliumException(said, Phrase.PUSH_MISSING.with()) {
    public constructor(what: String) : this(Said(what))
}

/** A listed file has another size or another sha256. */
public class DamagedFileException(said: Said) : HeliumException(said, Phrase.PUSH_DAMAGED.with()) {
    public constructor(what: String) : this(Said(what))
}

/** The bundle is for a runtime that this build has not got, or for another kind of device. */
public class WrongRuntimeException(said: Said, remedy: Said) : HeliumException(said, remedy) {
    public constructor(what: String, fix: String) : this(Said(what), Said(fix))
}

/** The device has too little free memory for the bundle. */
public class NotEnoughMemoryException(said: Said) : HeliumException(said, Phrase.FREE_MEMORY.with()) {
    public constructor(what: String) : this(Said(what))
}

/** The tokenizer file is damaged, or of a kind that is not implemented. */
public class TokenizerException(said: Said, remedy: Said, cause: Throwable? = null) : HeliumException(said, remedy, cause) {
    public constructor(what: String, cause: Throwable? = null) : this(Said(what), Phrase.TOKENIZER_SUPPORT.with(), cause)
}

/** A saved prompt cache is missing, damaged, of another kind, or of another bundle. */
public class PromptCacheException(said: Said, cause: Throwable? = null) : HeliumException(said, Phrase.SAVE_CACHE_AGAIN.with(), cause) {
    public constructor(what: String, cause: Throwable? = null) : this(Said(what), cause)
}

/** A call asks for what cannot be done: no tokens, an id outside the vocabulary, an option out of range. */
public class InvalidRequestException(said: Said, remedy: Said) : HeliumException(said, remedy) {
    public constructor(what: String, fix: String) : this(Said(what), Said(fix))
}

/** The conversation is longer than the KV cache. */
public class CacheFullException(said: Said) : HeliumException(said, Phrase.SHORTEN.with()) {
    public constructor(what: String) : this(Said(what))
}

/** The graph's inputs or outputs are not those of the manifest. */
public class GraphMismatchException(what: String) : HeliumException(Said(what), Phrase.FILES_APART.with())

/** The runtime cannot load a graph, or stopped while running it. */
public class EngineException(said: Said, remedy: Said, cause: Throwable? = null) : HeliumException(said, remedy, cause) {
    public constructor(what: String, remedy: Said, cause: Throwable? = null) : this(Said(what), remedy, cause)

    public constructor(what: String, fix: String, cause: Throwable? = null) : this(Said(what), Said(fix), cause)
}

/** The logits hold NaN or infinity, so that no token can be chosen. */
public class BadLogitsException(what: String) : HeliumException(Said(what), Phrase.RUN_SELF_TEST.with())

/** The storage cannot be read or written. */
public class StorageException(said: Said, cause: Throwable? = null) : HeliumException(said, Phrase.CHECK_STORAGE.with(), cause) {
    public constructor(what: String, cause: Throwable? = null) : this(Said(what), cause)
}

/** What nobody foresaw: a fault of the app or of a runtime. [report] is worth sending to who maintains it. */
public class UnexpectedException(cause: Throwable) :
    HeliumException(
        Phrase.UNEXPECTED.with("${cause.javaClass.simpleName}${cause.message?.lineSequence()?.firstOrNull()?.let { ", $it" }.orEmpty()}"),
        Phrase.COPY_REPORT.with(),
        cause,
    ) {
    /** The whole of it, for a bug report: where it was thrown, and what it was caused by. */
    public val report: String get() = java.io.StringWriter().also { cause!!.printStackTrace(java.io.PrintWriter(it, true)) }.toString()
}

/** The error as one of those that have a remedy, whatever it is: what a thread that must not die shows. */
public fun named(error: Throwable): HeliumException = when (error) {
    is HeliumException -> error
    is OutOfMemoryError -> NotEnoughMemoryException(Phrase.HEAP_FULL.with(error.message.orEmpty()))
    else -> UnexpectedException(error)
}
