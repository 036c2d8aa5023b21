package dev.heliumedge.core

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
