package dev.heliumedge.core

/** What every runtime compares of a manifest with itself. */
public object RuntimeCheck {
    /**
     * Refuses a bundle for another runtime than those that are there.
     *
     * @return The runtime that it is for.
     * @throws WrongRuntimeException It is for another one.
     */
    public fun requireRuntime(manifest: Manifest, there: Collection<Runtime>): Runtime =
        there.firstOrNull { it.id == manifest.runtime } ?: throw WrongRuntimeException(
            Phrase.NO_SUCH_RUNTIME.with(manifest.name, manifest.runtime, there.joinToString { it.id }), Phrase.INSTALL_FULL.with(),
        )

    /**
     * Refuses a bundle that needs a newer runtime: older ones load some graphs and compute nonsense.
     *
     * @param name What the runtime is called.
     * @param remedy What to do beside updating.
     * @param version The version that is there, asked for where the bundle needs one; null where nobody knows it, which
     *   refuses nothing.
     * @throws WrongRuntimeException It is too old.
     */
    public fun requireVersion(manifest: Manifest, name: String, remedy: Said, version: () -> String?) {
        val oldest = manifest.runtimeMinVersion ?: return
        val found = version() ?: return
        if (isOlder(found, oldest)) throw WrongRuntimeException(Phrase.OLD_RUNTIME.with(manifest.name, name, oldest, found), remedy)
    }

    /** Whether a version such as 1.26.0 comes before another such as 1.27; what is no number ends it. */
    internal fun isOlder(found: String, oldest: String): Boolean {
        fun numbers(version: String) = version.split('.').map { it.toIntOrNull() }.takeWhile { it != null }.map { it ?: 0 }
        val have = numbers(found)
        for ((index, need) in numbers(oldest).withIndex()) {
            val part = have.getOrElse(index) { 0 }
            if (part != need) return part < need
        }
        return false
    }
}
