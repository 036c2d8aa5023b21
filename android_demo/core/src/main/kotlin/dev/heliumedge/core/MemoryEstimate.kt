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
        /** Real tokens of a prefill call at least: a single one is a decode step. All others may be padding. */
        private const val FEWEST_IN_PREFILL = 2

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
         * slot under a mask, and reading a page of shared memory takes it as writing does. The shorter cache of a method is
         * held beside the full one, one at a time, until the conversation needs that: the longest that any method wants.
         */
        private fun slotsTouched(manifest: Manifest, cache: CacheSpec, tokens: Int): Long {
            if (cache.update == CacheUpdate.IN_PLACE) return tokens.toLong()
            val kinds = manifest.graphs.filter { it.phase == Phase.DECODE || it.phase == Phase.PREFILL }.groupBy { it.tokens ?: 1 }
            val longest = kinds.map { (width, graphs) -> longestShorter(graphs, cache.slots, tokens + maxOf(0, width - FEWEST_IN_PREFILL)) }
            return cache.slots.toLong() + (longest.maxOrNull() ?: 0)
        }

        /** The longest shorter cache among those of [graphs] that calls up to the slot [end], with their padding, take; 0: none. */
        private fun longestShorter(graphs: List<GraphSpec>, slots: Int, end: Int): Int {
            val shorter = graphs.mapNotNull { it.cacheLen }.filter { it < slots }.sorted()
            return shorter.firstOrNull { it >= end } ?: shorter.lastOrNull() ?: 0
        }

        /** Bytes as a person reads them. */
        public fun megabytes(bytes: Long): String = if (bytes < 10_000_000) "%.1f MB".format(bytes / 1e6) else "${bytes / 1_000_000} MB"
    }
}
