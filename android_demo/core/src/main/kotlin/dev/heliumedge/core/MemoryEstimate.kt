package dev.heliumedge.core

/**
 * Memory that a bundle will take, and whether a device has it.
 *
 * @property resident What cannot be reclaimed, with the cache as full as [contextTokens] make it.
 * @property mapped Weights that the runtime maps from the file; the system may take these pages back, at a price.
 * @property cache What the KV cache has of [resident].
 */
public data class MemoryEstimate(val contextTokens: Int, val resident: Long, val mapped: Long, val cache: Long = 0) {
    /**
     * Refuses a bundle that the device has no memory for, before anything is loaded.
     *
     * @param available Bytes that the system would give now without ending other processes that matter.
     * @throws NotEnoughMemoryException With both figures.
     */
    public fun check(available: Long) {
        if (resident > available) {
            throw NotEnoughMemoryException(Phrase.MEMORY_NEEDED.with(megabytes(resident), megabytes(available)))
        }
    }

    public companion object {
        /** The estimate for a conversation of [contextTokens], at most the cache's own length. */
        public fun of(manifest: Manifest, contextTokens: Int): MemoryEstimate {
            val tokens = contextTokens.coerceIn(0, manifest.cacheLen)
            val cache = manifest.cache?.let { it.bytesPerToken * slotsTouched(manifest, it, tokens) } ?: 0L
            val memory = manifest.memory
            return MemoryEstimate(tokens, memory.packed + memory.activations + cache, memory.weights, cache)
        }

        /**
         * Slots whose pages the system has to give, over all caches that are held at once.
         *
         * A kernel that works in place reads and writes the slots with tokens alone. Any other attention reads every
         * slot under a mask, and reading a page of shared memory takes it as writing does. The shorter cache of a decode
         * method is held beside the full one, until the conversation needs that.
         */
        private fun slotsTouched(manifest: Manifest, cache: CacheSpec, tokens: Int): Long {
            if (cache.update == CacheUpdate.IN_PLACE) return tokens.toLong()
            val shorter = manifest.graphs.filter { it.phase == Phase.DECODE }.mapNotNull { it.cacheLen }.filter { it < cache.slots }.sorted()
            val widest = shorter.firstOrNull { it >= tokens } ?: shorter.lastOrNull() ?: 0
            return cache.slots.toLong() + widest
        }

        /** Bytes as a person reads them. */
        public fun megabytes(bytes: Long): String = if (bytes < 10_000_000) "%.1f MB".format(bytes / 1e6) else "${bytes / 1_000_000} MB"
    }
}
