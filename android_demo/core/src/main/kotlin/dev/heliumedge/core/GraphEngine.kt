package dev.heliumedge.core

import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer

/** A runtime with the graphs of one bundle loaded. One thread runs it; [interrupt] may come from any thread. */
public interface GraphEngine : AutoCloseable {
    /** What messages and benchmarks call it, with its version where the runtime tells it. */
    public val name: String

    /**
     * Loads a graph, so that its weights are packed and its memory is taken now and not in the middle of a text. Loading
     * one that is there does nothing.
     *
     * @throws EngineException The graph cannot be loaded.
     * @throws GraphMismatchException Its inputs or outputs are not those of the manifest.
     */
    public fun load(graph: GraphSpec)

    /**
     * Binds a graph to its buffers, once; the step is then run as often as wanted without another allocation.
     *
     * @param width Tokens of each call.
     * @param cache The cache that it reads, and writes where the bundle says `in_place`; null for classifiers.
     * @param rows Entries of `last_index`, each of which gets a row of logits, where the graph leaves their number free
     *   ([GraphSpec.freeRows]); 1 elsewhere.
     * @throws EngineException The graph cannot be loaded.
     * @throws GraphMismatchException Its inputs or outputs are not those of the manifest, or it has no such [rows].
     */
    public fun bind(graph: GraphSpec, width: Int, cache: KvBuffers?, rows: Int = 1): BoundStep

    /** Asks the call that is running, if any, to end early; it then throws. Not every runtime can. */
    public fun interrupt()

    /** Takes back an [interrupt], before the next call. */
    public fun resume()
}

/** One graph with one number of tokens, bound to memory that every call uses again. */
public interface BoundStep : AutoCloseable {
    /** The input ids, [width] of them; written by absolute index. */
    public val ids: LongBuffer

    /** Tokens of each call. */
    public val width: Int

    /** The logits of the last call: (rows, V), or (labels) and (T, labels) for classifiers; (T, V) with `logits: all`. */
    public val logits: FloatBuffer

    /**
     * New rows of the last call of each layer's key and value in turn, (Hkv, width, D) each; empty where the kernel writes
     * the cache. They may share their memory, so that one is used before the next is asked for.
     */
    public val newRows: List<ByteBuffer>

    /**
     * Runs the graph.
     *
     * @param position Tokens in the cache.
     * @param lastIndex Index of the last real token of this call. A step of r rows returns the logits of the r tokens up
     *   to it, in their order: the entries of `last_index` are [lastIndex] - r + 1 to [lastIndex].
     * @throws EngineException The runtime stopped, also after [GraphEngine.interrupt].
     */
    public fun run(position: Int, lastIndex: Int)
}
