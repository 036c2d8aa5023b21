package dev.heliumedge.ort

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import dev.heliumedge.core.BoundStep
import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.Dtype
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.GraphEngine
import dev.heliumedge.core.GraphSpec
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.KvBuffers
import dev.heliumedge.core.Manifest
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.Runtime
import dev.heliumedge.core.RuntimeCheck
import dev.heliumedge.core.Said

/**
 * How ONNX Runtime runs.
 *
 * @property threads Threads within an operator; 0 lets ONNX Runtime choose.
 * @property spinning Whether idle threads wait busily: a little faster, and hard on the battery.
 */
public data class OrtOptions(val threads: Int = 0, val spinning: Boolean = false)

/**
 * The graphs of a bundle on ONNX Runtime.
 *
 * Sessions are opened from the path, never from bytes, so that the weights are mapped and not copied to the heap; each
 * graph's session is opened at its first use, because every session packs the weights in memory once more.
 *
 * @param version Of the library. The binding tells its own, which in an app is the same.
 */
public class OrtGraphEngine(
    private val bundle: BundleFolder,
    options: OrtOptions = OrtOptions(),
    private val allocator: BufferAllocator = BufferAllocator.Direct,
    version: (OrtEnvironment) -> String = { it.version },
) : GraphEngine {
    private val environment: OrtEnvironment
    private val sessionOptions: OrtSession.SessionOptions
    private val runOptions: OrtSession.RunOptions
    private val sessions = HashMap<String, OrtSession>()

    override val name: String
        get() = "ONNX Runtime ${environment.version}"

    init {
        checkManifest(bundle.manifest, version)
        environment = startedEnvironment()
        sessionOptions = named("start") { sessionOptions(options) }
        runOptions = named("start") { OrtSession.RunOptions() }
    }

    /** Sessions that are open. */
    public val openSessions: Int get() = sessions.size

    /** Tensors that were made over buffers since the start: constant while tokens are generated. */
    public var tensorsCreated: Int = 0
        private set

    override fun load(graph: GraphSpec) {
        session(graph)
    }

    override fun bind(graph: GraphSpec, width: Int, cache: KvBuffers?, rows: Int): BoundStep {
        graph.checkRows(width, rows)
        val session = session(graph)
        val step = named("bind ${graph.label}") {
            OrtBoundStep(environment, session, runOptions, graph, width, rows, cache, allocator)
        }
        tensorsCreated += step.tensorCount
        return step
    }

    override fun interrupt(): Unit = named("stop") { runOptions.setTerminate(true) }

    override fun resume(): Unit = named("go on") { runOptions.setTerminate(false) }

    override fun close() {
        sessions.values.forEach { session -> named("close") { session.close() } }
        sessions.clear()
        runOptions.close()
        sessionOptions.close()
    }

    private fun session(graph: GraphSpec) = sessions.getOrPut(graph.file) { open(graph) }

    private fun open(graph: GraphSpec): OrtSession {
        val path = bundle.file(graph.file).absolutePath
        val session = named("load ${graph.file}") { environment.createSession(path, sessionOptions) }
        try {
            checkSignature(session, graph)
        } catch (error: Exception) {
            session.close()
            throw error
        }
        return session
    }

    private fun sessionOptions(options: OrtOptions) = OrtSession.SessionOptions().apply {
        setIntraOpNumThreads(options.threads)
        setInterOpNumThreads(1)
        setMemoryPatternOptimization(true)
        addConfigEntry("session.intra_op.allow_spinning", if (options.spinning) "1" else "0")
        // Weights do not go through the arena, which would round their sizes up and keep them twice at the start.
        addConfigEntry("session.use_device_allocator_for_initializers", "1")
    }
}

/** Refuses a bundle by its manifest; the library is started where its version matters. */
internal fun checkManifest(manifest: Manifest, version: (OrtEnvironment) -> String) {
    RuntimeCheck.requireRuntime(manifest, listOf(Runtime.ONNX))
    val remedy = if (manifest.cache?.dtype == Dtype.INT8) Phrase.UPDATE_OR_PLAIN_CACHE else Phrase.UPDATE_OR_MIN_RUNTIME
    RuntimeCheck.requireVersion(manifest, "ONNX Runtime", remedy.with()) { version(startedEnvironment()) }
}

/** The one environment of the process, started at the first call. */
private fun startedEnvironment(): OrtEnvironment = named("start") {
    // The library reports to its maker by default. What it sends while it starts only the variable
    // ORT_DISABLE_TELEMETRY stops, which an app sets before it is loaded.
    OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR).apply { setTelemetry(false) }
}

/** Names what ONNX Runtime throws: its own exception, and what its binding and the loading of its library end in. */
internal inline fun <T> named(what: String, call: () -> T): T = try {
    call()
} catch (error: HeliumException) {
    throw error
} catch (error: OrtException) {
    throw EngineException("ONNX Runtime cannot $what: ${error.firstLine()}", fixFor(error), error)
} catch (error: RuntimeException) {
    // Of a closed session, or of arguments that the binding refuses.
    throw EngineException("ONNX Runtime cannot $what: ${error.firstLine()}", Phrase.LOAD_AGAIN.with(), error)
} catch (error: LinkageError) {
    // After the first failure to load the library, its classes are gone as well.
    throw EngineException("ONNX Runtime cannot $what: ${error.firstLine()}", Phrase.OTHER_BUILD.with(), error)
}

/** Without the code in front, which says nothing to a user. */
internal fun Throwable.firstLine(): String = message?.lineSequence()?.firstOrNull()?.substringAfter(" - message: ")?.trimEnd('.') ?: javaClass.simpleName

internal fun fixFor(error: OrtException): Said = when (error.code) {
    OrtException.OrtErrorCode.ORT_NO_SUCHFILE -> Phrase.PUSH_MISSING.with()
    OrtException.OrtErrorCode.ORT_INVALID_PROTOBUF, OrtException.OrtErrorCode.ORT_INVALID_GRAPH ->
        Phrase.PUSH_OR_UPDATE.with()
    OrtException.OrtErrorCode.ORT_NOT_IMPLEMENTED -> Phrase.UPDATE_FOR_OPERATOR.with()
    else -> Phrase.VERIFY.with()
}
