package dev.heliumedge.core

import kotlin.math.exp

/** A label, its name where the bundle has one, and its score. */
public data class Score(val label: Int, val name: String, val score: Double)

/**
 * Runs the one graph of a classifier: ids (1, T) to logits (1, labels), or (1, T, labels) for a label per token.
 *
 * The graph is bound once; texts shorter than T are padded at the end, where no real token sees it.
 *
 * @throws InvalidRequestException The bundle has no labels to give.
 */
public class Classifier(private val manifest: Manifest, private val engine: GraphEngine) : AutoCloseable {
    private val graph = graphOf(manifest)
    private val shape = graph.output(Role.LOGITS)!!.shape

    /** Tokens of a call, the longest text. */
    public val width: Int = graph.tokens ?: throw ManifestException("${graph.label}: tokens is missing, which a classifier needs")

    /** Number of labels. */
    public val labels: Int = shape.last().toInt()

    /** Whether each token gets a label, and not the text as a whole. */
    public val perToken: Boolean = shape.size == 3

    private val step = engine.bind(graph, width, null)

    /**
     * Labels a text.
     *
     * @return For the text, or for each of its tokens, every label with its score, the largest first.
     * @throws InvalidRequestException No tokens, more than the graph takes, or an id outside the vocabulary.
     * @throws BadLogitsException The logits are not finite.
     */
    public fun classify(ids: IntArray): List<List<Score>> {
        check(ids)
        val pad = manifest.tokens.pad ?: 0
        for (index in 0 until width) step.ids.put(index, (if (index < ids.size) ids[index] else pad).toLong())
        step.run(0, ids.size - 1)
        return List(if (perToken) ids.size else 1) { scores(it * labels) }
    }

    /**
     * Runs the graph once, so that its time and memory are not those of the first text.
     *
     * @return False when [stop] ended it.
     * @throws EngineException The runtime stopped.
     */
    internal fun warmUp(stop: StopSignal?): Boolean {
        // One token before the padding, which a graph may look for.
        val token = manifest.tokens.bos ?: 0
        for (index in 0 until width) step.ids.put(index, (if (index == 0) token else manifest.tokens.pad ?: token).toLong())
        return engine.unlessStopped(stop) { step.run(0, 0) } != null && stop?.isRequested != true
    }

    override fun close() {
        step.close()
        engine.close()
    }

    private fun check(ids: IntArray) {
        if (ids.isEmpty() || ids.size > width) {
            throw InvalidRequestException(Phrase.CLASSIFIER_WIDTH.with(ids.size, width), Phrase.SHORTEN_TO.with(width))
        }
        ids.firstOrNull { it !in 0 until manifest.vocabSize }?.let {
            throw InvalidRequestException(Phrase.UNKNOWN_TOKEN.with(it, manifest.vocabSize), Phrase.TAKE_OUT.with())
        }
        // The graph finds the token that stands for the text by the padding behind it.
        if (manifest.tokens.pad == null && !perToken && ids.size < width) {
            throw InvalidRequestException(Phrase.NO_PADDING.with(width), Phrase.LENGTHEN.with())
        }
    }

    private fun scores(offset: Int): List<Score> {
        val logits = DoubleArray(labels) { step.logits.get(offset + it).toDouble() }
        if (logits.any { it.isNaN() || it.isInfinite() }) throw BadLogitsException("the classifier returned NaN or infinity")
        val names = manifest.output?.labels.orEmpty()
        val scores = activated(logits)
        return List(labels) { Score(it, names.getOrElse(it) { _ -> "label $it" }, scores[it]) }.sortedByDescending { it.score }
    }

    /** A softmax; a sigmoid of each where several labels may hold or there is one alone; logits of a regression as they are. */
    private fun activated(logits: DoubleArray): DoubleArray {
        val kind = manifest.output?.problemType
        if (kind == "regression") return logits
        if (kind == "multi_label_classification" || labels == 1) return DoubleArray(labels) { 1 / (1 + exp(-logits[it])) }
        val top = logits.max()
        val weights = DoubleArray(labels) { exp(logits[it] - top) }
        val total = weights.sum()
        return DoubleArray(labels) { weights[it] / total }
    }

    internal companion object {
        /** The graph that gives labels; refuses a bundle without one. */
        fun graphOf(manifest: Manifest): GraphSpec {
            val graph = manifest.graph(Phase.CLASSIFY)
                ?: throw InvalidRequestException(Said("${manifest.name} continues text and classifies none"), Phrase.CHOOSE_CLASSIFIER.with())
            // An encoder returns hidden states, which this app has no use for.
            if (graph.output(Role.LOGITS) == null) throw InvalidRequestException(Phrase.NO_LABELS.with(manifest.name), Phrase.CHOOSE_CLASSIFIER.with())
            return graph
        }
    }
}
