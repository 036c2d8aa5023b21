package dev.heliumedge.executorch

import dev.heliumedge.core.EngineException
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.Said
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Module

/** A loaded `.pte`, as far as the engine needs it; tests put another one in its place. */
public interface Program : AutoCloseable {
    /** Names of its methods. */
    public val methods: Set<String>

    /**
     * Reads a method's plan and packs its weights, which otherwise happens at its first run.
     *
     * @throws EngineException It cannot be loaded.
     */
    public fun load(method: String)

    /** Runs a method; the outputs lie in memory that its next call overwrites. */
    public fun execute(method: String, inputs: Array<EValue>): Array<EValue>
}

/**
 * A program of `org.pytorch.executorch`.
 *
 * @param threads Of the one pool that all programs of the process share.
 * @throws EngineException It cannot be loaded.
 */
public class ModuleProgram(file: File, threads: Int) : Program {
    // Mapped: by default the whole file is copied to the heap.
    private val module = named("load ${file.name}") { Module.load(file.absolutePath, Module.LOAD_MODE_MMAP, threads) }

    override val methods: Set<String> = named("read ${file.name}") { module.getMethods().toSet() }

    override fun load(method: String): Unit = named("load $method") { module.loadMethod(method) }

    override fun execute(method: String, inputs: Array<EValue>): Array<EValue> =
        named("run $method") { module.execute(method, *inputs) }

    override fun close(): Unit = module.destroy()
}

/**
 * Names what ExecuTorch throws: [Module] reports failures as [RuntimeException]s of several kinds, and the loading of its
 * library ends in errors, of another kind at each further attempt.
 */
internal inline fun <T> named(what: String, call: () -> T): T = try {
    call()
} catch (error: HeliumException) {
    throw error
} catch (error: RuntimeException) {
    throw EngineException("ExecuTorch cannot $what: ${firstLine(error)}", fixFor(error), error)
} catch (error: LinkageError) {
    throw EngineException("ExecuTorch cannot $what: ${firstLine(error)}", Phrase.OTHER_BUILD.with(), error)
}

internal fun firstLine(error: Throwable): String = error.message?.lineSequence()?.firstOrNull()?.trimEnd('.') ?: error.javaClass.simpleName

/** A file that cannot be read is reported as an invalid argument, with the runtime's own code in the text. */
private val NATIVE_ERROR = Regex("Native Error: 0x([0-9A-Fa-f]{1,7})")

private fun code(error: ExecutorchRuntimeException): Int =
    NATIVE_ERROR.find(error.message.orEmpty())?.let { it.groupValues[1].toInt(16) } ?: error.errorCode

internal fun fixFor(error: RuntimeException): Said = when ((error as? ExecutorchRuntimeException)?.let(::code)) {
    ExecutorchRuntimeException.OPERATOR_MISSING, ExecutorchRuntimeException.NOT_SUPPORTED, ExecutorchRuntimeException.NOT_IMPLEMENTED ->
        Phrase.UPDATE_FOR_OPERATOR.with()
    ExecutorchRuntimeException.DELEGATE_INVALID_COMPATIBILITY ->
        Phrase.UPDATE_FOR_BACKEND.with()
    ExecutorchRuntimeException.MEMORY_ALLOCATION_FAILED, ExecutorchRuntimeException.DELEGATE_MEMORY_ALLOCATION_FAILED, ExecutorchRuntimeException.OUT_OF_RESOURCES ->
        Phrase.FREE_MEMORY.with()
    ExecutorchRuntimeException.NOT_FOUND, ExecutorchRuntimeException.ACCESS_FAILED, ExecutorchRuntimeException.INVALID_PROGRAM,
    ExecutorchRuntimeException.INVALID_EXTERNAL_DATA,
    -> Phrase.PUSH_DAMAGED.with()
    else -> Phrase.VERIFY.with()
}
