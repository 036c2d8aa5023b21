package dev.heliumedge.core

/**
 * Everything that can go wrong, each with a name of its own and the remedy in its text.
 *
 * The core throws nothing else: what the JDK or a runtime throws is caught where it is called and named here.
 *
 * @property what What is wrong, where, and what was expected: one line.
 * @property fix What to do about it: one line.
 */
public sealed class HeliumException(
    public val what: String,
    public val fix: String,
    cause: Throwable? = null,
) : Exception("$what. $fix", cause)

/** A folder without a manifest, or something that is no folder. */
public class NotABundleException(what: String) :
    HeliumException(what, "Choose a folder that `helium-edge export` wrote; it holds a $MANIFEST_NAME.")

/** A manifest that is not readable, or contradicts itself. */
public class ManifestException(what: String, cause: Throwable? = null) :
    HeliumException("$MANIFEST_NAME: $what", "Export the checkpoint again, or push the bundle again.", cause)

/** A manifest of a later major version. */
public class NewerBundleException(what: String) :
    HeliumException(what, "Update this app, or export with an older helium-edge.")

/** A manifest of an earlier major version. */
public class OlderBundleException(what: String) :
    HeliumException(what, "Export the checkpoint again with a current helium-edge.")

/** A path in the manifest that would leave the bundle's folder. */
public class UnsafePathException(what: String) :
    HeliumException(what, "Do not use this bundle: no export writes such a path. Take it from a source you trust.")

/** A listed file is not there. */
public class MissingFileException(what: String) :
    HeliumException(what, "Push the bundle again: helium-edge push BUNDLE sends what is missing.")

/** A listed file has another size or another sha256. */
public class DamagedFileException(what: String) :
    HeliumException(what, "Push the bundle again: helium-edge push BUNDLE replaces what is damaged.")

/** The bundle is for a runtime that this build has not got, or for another kind of device. */
public class WrongRuntimeException(what: String, fix: String) : HeliumException(what, fix)

/** The device has too little free memory for the bundle. */
public class NotEnoughMemoryException(what: String) :
    HeliumException(what, "Close other apps, or export with a smaller cache: helium-edge export --cache-len N.")

/** The tokenizer file is damaged, or of a kind that is not implemented. */
public class TokenizerException(what: String, cause: Throwable? = null) :
    HeliumException(what, "Export the checkpoint again; if it persists, the tokenizer needs support in this app.", cause)

/** A saved prompt cache is missing, damaged, of another kind, or of another bundle. */
public class PromptCacheException(what: String, cause: Throwable? = null) :
    HeliumException(what, "Save the cache again, with this bundle.", cause)

/** A call asks for what cannot be done: no tokens, an id outside the vocabulary, an option out of range. */
public class InvalidRequestException(what: String, fix: String) : HeliumException(what, fix)

/** The conversation is longer than the KV cache. */
public class CacheFullException(what: String) :
    HeliumException(what, "Shorten the prompt, start a new text, or export with a larger --cache-len.")

/** The graph's inputs or outputs are not those of the manifest. */
public class GraphMismatchException(what: String) :
    HeliumException(what, "The bundle's files do not belong together: export and push it again.")

/** The runtime cannot load a graph, or stopped while running it. */
public class EngineException(what: String, fix: String, cause: Throwable? = null) : HeliumException(what, fix, cause)

/** The logits hold NaN or infinity, so that no token can be chosen. */
public class BadLogitsException(what: String) :
    HeliumException(what, "Run the self-test; `helium-edge parity BUNDLE` tells whether the export is at fault.")

/** The storage cannot be read or written. */
public class StorageException(what: String, cause: Throwable? = null) :
    HeliumException(what, "Check the free space and that the folder still exists, then try again.", cause)

/** What nobody foresaw: a fault of the app or of a runtime. [report] is worth sending to who maintains it. */
public class UnexpectedException(cause: Throwable) :
    HeliumException(
        "unexpected: ${cause.javaClass.simpleName}${cause.message?.lineSequence()?.firstOrNull()?.let { ", $it" }.orEmpty()}",
        "Copy the report and send it to who gave you the app; loading the bundle again may help.",
        cause,
    ) {
    /** The whole of it, for a bug report: where it was thrown, and what it was caused by. */
    public val report: String get() = java.io.StringWriter().also { cause!!.printStackTrace(java.io.PrintWriter(it, true)) }.toString()
}

/** The error as one of those that have a remedy, whatever it is: what a thread that must not die shows. */
public fun named(error: Throwable): HeliumException = when (error) {
    is HeliumException -> error
    is OutOfMemoryError -> NotEnoughMemoryException("the app's own memory is used up (${error.message})")
    else -> UnexpectedException(error)
}
