package dev.heliumedge.core

/** Name of the manifest in a bundle's folder. */
public const val MANIFEST_NAME: String = "helium-edge.json"

/** The runtimes that graphs are made for, as the manifest spells them. */
public enum class Runtime(public val id: String) {
    ONNX("onnxruntime"),
    EXECUTORCH("executorch"),
}

/** What a graph does. */
public enum class Phase(public val id: String) {
    PREFILL("prefill"),
    DECODE("decode"),

    /** Prefill and decode: the number of tokens is free at each call. */
    ANY("any"),
    CLASSIFY("classify"),
}

/** Element types that graphs take and return, as numpy spells them. */
public enum class Dtype(public val id: String, public val bytes: Int) {
    FLOAT32("float32", 4),
    FLOAT16("float16", 2),
    INT8("int8", 1),
    INT32("int32", 4),
    INT64("int64", 8),
}

/** Who writes the new rows of the cache. */
public enum class CacheUpdate(public val id: String) {
    /** The kernel: each `present` output is bound to the memory of its `past` input. */
    IN_PLACE("in_place"),

    /** The host: outputs hold the new rows only. */
    APPEND("append"),
}

/** What a graph input or output is for; `OTHER` is a role of a later minor version. */
public enum class Role(public val id: String) {
    TOKENS("tokens"),
    PAST_LENGTH("past_length"),
    LAST_INDEX("last_index"),
    PAST_KEY("past_key"),
    PAST_VALUE("past_value"),
    LOGITS("logits"),
    HIDDEN_STATES("hidden_states"),
    PRESENT_KEY("present_key"),
    PRESENT_VALUE("present_value"),
    NEW_KEY("new_key"),
    NEW_VALUE("new_value"),
    OTHER(""),
}

/** One graph input or output; a free dimension is -1 in [shape]. */
public data class TensorSpec(val name: String, val role: Role, val dtype: Dtype, val shape: List<Long>) {
    /** The shape with [width] for every free dimension, and one row of logits; [GraphSpec.shapeOf] knows of more. */
    public fun shapeFor(width: Int): LongArray = LongArray(shape.size) { if (shape[it] < 0) width.toLong() else shape[it] }
}

/** One graph: a file, or a method of one. Inputs and outputs stand in the order of the runtime. */
public data class GraphSpec(
    val file: String,
    val method: String?,
    val phase: Phase,
    /** Tokens per call, or null when free. */
    val tokens: Int?,
    /** Slots of the cache that it takes, or null without a cache. */
    val cacheLen: Int?,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
    /**
     * Whether `last_index` may have any number of entries, each of which gets a row of logits; [inputs] and [outputs] have
     * the shapes of one.
     */
    val freeRows: Boolean = false,
    /** Whether what it returns lies in memory of the program's own; otherwise a host gives the memory, which ExecuTorch's Java API cannot. */
    val plannedOutputs: Boolean = false,
) {
    /** How messages name it. */
    val label: String get() = if (method == null) file else "$file, method $method"

    /** The one input with a role, or null. */
    public fun input(role: Role): TensorSpec? = inputs.firstOrNull { it.role == role }

    /** The one output with a role, or null. */
    public fun output(role: Role): TensorSpec? = outputs.firstOrNull { it.role == role }

    /** The shape of one of its inputs or outputs in a call of [width] tokens that returns [rows] rows of logits. */
    public fun shapeOf(tensor: TensorSpec, width: Int, rows: Int): LongArray {
        val shape = tensor.shapeFor(width)
        rowsAxis(tensor)?.let { shape[it] = rows.toLong() }
        return shape
    }

    /** The shape of one of its inputs or outputs in the graph's own file, where free rows are a free dimension. */
    public fun fileShape(tensor: TensorSpec): List<Long> = tensor.shape.toMutableList().also { shape -> rowsAxis(tensor)?.let { shape[it] = -1L } }

    /** Where a tensor has the rows of logits: `last_index` is (R), and logits are (1, R, V); null where they are not free. */
    private fun rowsAxis(tensor: TensorSpec): Int? = when {
        !freeRows -> null
        tensor.role == Role.LAST_INDEX -> 0
        tensor.role == Role.LOGITS -> 1
        else -> null
    }

    /**
     * Refuses [rows] that a call of [width] tokens cannot return.
     *
     * @throws GraphMismatchException There are more than tokens, or the graph has its own number of them.
     */
    public fun checkRows(width: Int, rows: Int) {
        val most = if (freeRows) width else 1
        if (rows !in 1..most) throw GraphMismatchException("$label cannot be asked for $rows rows of logits of $width tokens, only for 1 to $most")
    }
}

/**
 * The KV cache that the host owns: a key buffer and a value buffer per layer.
 *
 * [shape] is (1, Hkv, S, D), or (Hkv, S, D) when not [batched].
 */
public data class CacheSpec(
    val update: CacheUpdate,
    val layers: Int,
    val kvHeads: Int,
    val slots: Int,
    val headDim: Int,
    val batched: Boolean,
    val dtype: Dtype,
) {
    /** Of one buffer. */
    val shape: LongArray
        get() {
            val inner = longArrayOf(kvHeads.toLong(), slots.toLong(), headDim.toLong())
            return if (batched) longArrayOf(1, *inner) else inner
        }

    /** Bytes of one row: one token, one head, one buffer. */
    val rowBytes: Int get() = headDim * dtype.bytes

    /** Bytes of one buffer. */
    val bufferBytes: Long get() = kvHeads.toLong() * slots * rowBytes

    /** Bytes that one token takes over all layers, keys and values. */
    val bytesPerToken: Long get() = 2L * layers * kvHeads * rowBytes
}

/**
 * Special token ids.
 *
 * @property addBos Whether prompts start with [bos]; the tokenizer's template adds it, the host never does.
 */
public data class Tokens(val bos: Int?, val eos: Set<Int>, val pad: Int?, val addBos: Boolean)

/** Sampling defaults of the bundle. */
public data class GenerationDefaults(
    val doSample: Boolean,
    val temperature: Double,
    val topK: Int,
    val topP: Double,
    val maxNewTokens: Int,
    val minP: Double = 0.0,
    val repetitionPenalty: Double = 1.0,
    val noRepeatNgramSize: Int = 0,
    val suppressTokens: List<Int> = emptyList(),
    /** Texts that end a generation; they are not shown. */
    val stopStrings: List<String> = emptyList(),
    /** Most tokens of prompt and answer together, or null. */
    val maxLength: Int? = null,
) {
    /** Most new tokens behind a prompt; at least one. */
    public fun newTokensBehind(promptTokens: Int): Int =
        if (maxLength == null) maxNewTokens else maxOf(1, minOf(maxNewTokens, maxLength - promptTokens))
}

/** Memory of a running bundle, in bytes, as the exporter estimates it. */
public data class MemorySpec(val weights: Long, val packed: Long, val cache: Long, val activations: Long, val total: Long)

/** A token and its logit. */
public data class TopToken(val id: Int, val logit: Double)

/**
 * A recorded greedy run; [margins] says how far each choice was ahead of the next best one.
 *
 * @property tolerance How far a logit may lie from the recorded one on a processor of another kind than the exporter's,
 *   and how near a tie is; null in bundles of schema version 1.4 and before.
 */
public class GoldenTrace(
    public val prompt: String,
    public val promptIds: IntArray,
    public val greedyIds: IntArray,
    public val margins: DoubleArray,
    public val top5First: List<TopToken>,
    public val tolerance: Double? = null,
)

/** What a model is for, as the manifest spells it in `head.kind`. */
public enum class Task(public val id: String) {
    LANGUAGE_MODEL("language_model"),
    SEQUENCE_CLASSIFICATION("sequence_classification"),
    TOKEN_CLASSIFICATION("token_classification"),
    ENCODER("hidden_states"),
}

/**
 * What a model returns that is no language model; the manifest's field for it is called `head`.
 *
 * @property task Any but [Task.LANGUAGE_MODEL].
 * @property labels Names of the logits, in order; empty for an encoder.
 * @property problemType How logits become scores, as `config.json` has it, or null; see [Classifier].
 */
public data class OutputSpec(val task: Task, val labels: List<String>, val problemType: String?)

/**
 * Where the weights come from, for who uses them.
 *
 * @property checkpoint Id on the Hugging Face Hub, or the name of a folder.
 * @property license As the checkpoint declares it; null where it does not.
 */
public data class SourceSpec(val checkpoint: String?, val license: String?)

/** One file of the bundle. */
public data class FileSpec(val path: String, val bytes: Long, val sha256: String)

/**
 * What `helium-edge.json` says, as far as a host needs it. Read it with [ManifestReader].
 *
 * @property cache Null for classifiers and encoders, which take a whole text at once.
 * @property output Null for language models.
 * @property golden Null when no run was recorded.
 * @property chat How a conversation reads; null where the checkpoint has no chat template.
 * @property runtimeMinVersion The oldest version of the runtime that runs the graphs; null where any does.
 */
public data class Manifest(
    val schemaVersion: String,
    val name: String,
    val runtime: String,
    val target: String,
    val vocabSize: Int,
    val tokens: Tokens,
    val tokenizerFile: String,
    val tokenizerKind: String,
    val graphs: List<GraphSpec>,
    val cache: CacheSpec?,
    /** Whether graphs return the logits of every position, and not of the last one alone. */
    val allLogits: Boolean,
    val prefillLen: Int,
    val cacheLen: Int,
    val generation: GenerationDefaults,
    val memory: MemorySpec,
    val golden: GoldenTrace?,
    val output: OutputSpec?,
    val files: List<FileSpec>,
    val runtimeMinVersion: String? = null,
    val chat: ChatSpec? = null,
    val source: SourceSpec = SourceSpec(null, null),
) {
    /** What the model is for. */
    val task: Task get() = output?.task ?: Task.LANGUAGE_MODEL

    /** The graph of a phase with the full cache and for most tokens, or null. */
    public fun graph(phase: Phase): GraphSpec? =
        graphs.filter { it.phase == phase }.maxWithOrNull(compareBy({ it.cacheLen ?: 0 }, { it.tokens ?: 0 }))

    /** Size of all files together. */
    val totalBytes: Long get() = files.sumOf { it.bytes }
}
