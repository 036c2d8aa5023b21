package dev.heliumedge.core

/** A runtime that an app was built with: what it refuses of the bundles for it, and how it is opened. */
public fun interface EngineFactory {
    /**
     * Opens the runtime for a bundle.
     *
     * @param threads Threads within an operator; 0 lets the runtime choose.
     * @throws HeliumException It cannot be opened.
     */
    public fun open(bundle: BundleFolder, threads: Int, allocator: BufferAllocator): GraphEngine

    /**
     * Refuses a bundle that [open] would refuse, as far as its manifest alone tells: asked before gigabytes are copied,
     * hashed or loaded.
     *
     * @throws HeliumException It cannot run here.
     */
    public fun check(manifest: Manifest) {
        // A factory that knows nothing finds out when it opens.
    }
}
