package dev.heliumedge.executorch

import dev.heliumedge.core.BoundStep
import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.GraphEngine
import dev.heliumedge.core.GraphMismatchException
import dev.heliumedge.core.GraphSpec
import dev.heliumedge.core.KvBuffers
import dev.heliumedge.core.Manifest
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.Runtime
import dev.heliumedge.core.RuntimeCheck
import dev.heliumedge.core.WrongRuntimeException
import org.pytorch.executorch.EValue
import java.nio.ByteBuffer

private val NO_INPUTS = emptyArray<EValue>()

/**
 * The methods of a bundle's `.pte` on ExecuTorch.
 *
 * Methods read the cache where it lies, because inputs are not planned into the program's memory, and return the new
 * rows, which are copied to their slots. A call cannot be interrupted: stopping takes effect between calls.
 *
 * @param program Closed with the engine, and where that refuses it.
 * @param version Of the runtime, as 1.5.1: its archive does not tell, so the app says what it was built with. Null where
 *   nobody knows; then no bundle is too new.
 */
public class ExecutorchGraphEngine(
    private val manifest: Manifest,
    private val program: Program,
    private val allocator: BufferAllocator = BufferAllocator.Direct,
    private val version: String? = null,
) : GraphEngine {
    /** Opens the program of a bundle. */
    public constructor(bundle: BundleFolder, threads: Int, allocator: BufferAllocator = BufferAllocator.Direct, version: String? = null) : this(
        checked(bundle.manifest, version),
        ModuleProgram(bundle.file(bundle.manifest.graphs.first().file), threads),
        allocator,
        version,
    )

    private val loaded = HashSet<String>()

    /**
     * Memory of inputs and outputs beside the cache, by tokens of a call, place among them and bytes. Methods of as many
     * tokens take the same: one runs at a time, and what a call returns is used before the next one. So those of several
     * caches take no more than one, and a step that is bound to another cache takes nothing anew.
     */
    private val memory = HashMap<Triple<Int, Int, Int>, ByteBuffer>()

    override val name: String = listOfNotNull("ExecuTorch", version).joinToString(" ")

    /** Tensors that were made over buffers since the start: constant while tokens are generated. */
    public var tensorsCreated: Int = 0
        private set

    init {
        try {
            checkProgram()
        } catch (error: Throwable) {
            program.close()
            throw error
        }
    }

    private fun checkProgram() {
        checked(manifest, version)
        val missing = manifest.graphs.firstOrNull { it.method == null || it.method !in program.methods }
        if (missing != null) {
            throw GraphMismatchException("${missing.label}: no such method; the file has ${program.methods.sorted()}")
        }
        // The file says of itself what the manifest says of it: two that do not belong together are found here.
        crossCheck("get_vocab_size", manifest.vocabSize)
        if (manifest.cache != null) crossCheck("get_max_context_len", manifest.cacheLen)
    }

    // The runtime itself loads a method at its first run, with the seconds and the memory that packing its weights takes.
    override fun load(graph: GraphSpec) {
        if (loaded.add(graph.methodName())) program.load(graph.methodName())
    }

    override fun bind(graph: GraphSpec, width: Int, cache: KvBuffers?, rows: Int): BoundStep {
        graph.checkRows(width, rows)
        if (graph.tokens != width) throw GraphMismatchException("${graph.label} takes ${graph.tokens} tokens, not $width")
        load(graph)
        val step = named("bind ${graph.label}") { ExecutorchBoundStep(program, graph, width, cache, memoryOf(width)) }
        tensorsCreated += step.tensorCount
        return step
    }

    /** Gives the buffers of one step in turn. */
    private fun memoryOf(width: Int): BufferAllocator {
        var place = 0
        return BufferAllocator { bytes -> memory.getOrPut(Triple(width, place++, bytes)) { allocator.allocate(bytes) } }
    }

    override fun interrupt(): Unit = Unit

    override fun resume(): Unit = Unit

    override fun close() {
        try {
            program.close()
        } finally {
            memory.values.forEach(allocator::release)
            memory.clear()
        }
    }

    private fun crossCheck(method: String, expected: Int) {
        if (method !in program.methods) return
        val found = program.execute(method, NO_INPUTS).firstOrNull()?.takeIf { it.isInt }?.toInt()
        if (found != null && found != expected.toLong()) {
            throw GraphMismatchException("$method of the .pte is $found, the manifest says $expected")
        }
    }
}

internal fun GraphSpec.methodName(): String = method ?: throw GraphMismatchException("$label names no method")

/** The manifest, unless it alone tells that the bundle cannot run here. */
internal fun checked(manifest: Manifest, version: String?): Manifest {
    RuntimeCheck.requireRuntime(manifest, listOf(Runtime.EXECUTORCH))
    if (manifest.target == "coreml") {
        throw WrongRuntimeException(Phrase.APPLE_ONLY.with(manifest.name), Phrase.EXPORT_TARGET.with("xnnpack"))
    }
    // No recipe asks for an older ExecuTorch: the exporter writes for the one that it has.
    RuntimeCheck.requireVersion(manifest, "ExecuTorch", Phrase.UPDATE_APP.with()) { version }
    val old = manifest.graphs.firstOrNull { !it.plannedOutputs }
    if (old != null) {
        // The runtime would write what it returns to memory that nobody gave, and end the process.
        throw EngineException(Phrase.UNPLANNED_OUTPUTS.with(old.label), Phrase.EXPORT_CURRENT.with())
    }
    return manifest
}
