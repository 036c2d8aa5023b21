package dev.heliumedge.core

import kotlin.math.exp

/** A label and its probability. */
public data class Score(val label: Int, val probability: Double)

/**
 * Runs the one graph of a head bundle: ids (1, T) to logits (1, labels), or (1, T, labels) for a label per token.
 *
 * The graph is bound once; texts shorter than T are padded at the end.
 */
public class Classifier(private val manifest: Manifest, private val engine: GraphEngine) : AutoCloseable {
    private val graph = manifest.graph(Phase.CLASSIFY) ?: throw InvalidRequestException(
        "${manifest.name} continues text and classifies none",
        "Use the text screen, or choose a bundle of a classifier.",
    )
    private val shape = graph.output(Role.LOGITS)?.shape ?: throw ManifestException("${graph.label} has no output of the role logits")

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
     * @return For the text, or for each of its tokens, every label with its probability, the most likely first.
     * @throws InvalidRequestException No tokens, more than the graph takes, or an id outside the vocabulary.
     * @throws BadLogitsException The logits are not finite.
     */
    public fun classify(ids: IntArray): List<List<Score>> {
        if (ids.isEmpty() || ids.size > width) {
            throw InvalidRequestException("${ids.size} tokens do not fit a classifier of $width", "Allowed: 1 to $width; shorten the text.")
        }
        ids.firstOrNull { it !in 0 until manifest.vocabSize }?.let {
            throw InvalidRequestException("token id $it is outside the vocabulary of ${manifest.vocabSize}", "Use the bundle's own tokenizer.")
        }
        val pad = manifest.tokens.pad ?: if (ids.size == width) 0 else throw ManifestException("tokens.pad is missing, which a short text needs")
        for (index in 0 until width) step.ids.put(index, (if (index < ids.size) ids[index] else pad).toLong())
        step.run(0, ids.size - 1)
        return List(if (perToken) ids.size else 1) { softmax(it * labels) }
    }

    override fun close() {
        step.close()
        engine.close()
    }

    private fun softmax(offset: Int): List<Score> {
        val logits = DoubleArray(labels) { step.logits.get(offset + it).toDouble() }
        if (logits.any { !it.isFinite() }) throw BadLogitsException("the classifier returned NaN or infinity")
        val top = logits.max()
        val weights = DoubleArray(labels) { exp(logits[it] - top) }
        val total = weights.sum()
        return weights.mapIndexed { label, weight -> Score(label, weight / total) }.sortedByDescending { it.probability }
    }
}
