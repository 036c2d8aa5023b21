package dev.heliumedge.core

/**
 * Memory that a bundle will take, and whether a device has it.
 *
 * @property resident What cannot be reclaimed, with the cache as full as [contextTokens] make it.
 * @property mapped Weights that the runtime maps from the file; the system may take these pages back, at a price.
 */
public data class MemoryEstimate(val contextTokens: Int, val resident: Long, val mapped: Long) {
    /**
     * Refuses a bundle that the device has no memory for, before anything is loaded.
     *
     * @param available Bytes that the system would give now without ending other processes that matter.
     * @throws NotEnoughMemoryException With both figures.
     */
    public fun check(available: Long) {
        if (resident > available) {
            throw NotEnoughMemoryException("the bundle needs ${megabytes(resident)} of memory, ${megabytes(available)} are free")
        }
    }

    /** One line for the screen. */
    public fun describe(): String = "${megabytes(resident)} of memory at $contextTokens tokens, and ${megabytes(mapped)} mapped from storage"

    public companion object {
        /** The estimate for a conversation of [contextTokens], at most the cache's own length. */
        public fun of(manifest: Manifest, contextTokens: Int): MemoryEstimate {
            val tokens = contextTokens.coerceIn(0, manifest.cacheLen)
            // Slots that were never written are pages that the system has not given yet.
            val cache = manifest.cache?.let { it.bytesPerToken * tokens } ?: 0L
            val memory = manifest.memory
            return MemoryEstimate(tokens, memory.packed + memory.activations + cache, memory.weights)
        }

        /** Bytes as a person reads them. */
        public fun megabytes(bytes: Long): String = if (bytes < 10_000_000) "%.1f MB".format(bytes / 1e6) else "${bytes / 1_000_000} MB"
    }
}
