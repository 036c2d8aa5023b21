package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class ClassifierTest {
    private fun manifest(perToken: Boolean, labels: List<String> = emptyList(), problemType: String? = null): Manifest {
        val task = if (perToken) Task.TOKEN_CLASSIFICATION else Task.SEQUENCE_CLASSIFICATION
        val shape = if (perToken) listOf(1L, 4, 3) else listOf(1L, 3)
        val graph = GraphSpec(
            "classifier.onnx", null, Phase.CLASSIFY, 4, null,
            listOf(TensorSpec("input_ids", Role.TOKENS, Dtype.INT64, listOf(1, 4))),
            listOf(TensorSpec("logits", Role.LOGITS, Dtype.FLOAT32, shape)),
        )
        return fakeManifest().copy(graphs = listOf(graph), cache = null, output = OutputSpec(task, labels, problemType))
    }

    @Test
    fun `a text gets every label, the likely one first`() {
        val engine = FakeEngine(3) { 2 }
        val classifier = Classifier(manifest(perToken = false), engine)
        val scores = classifier.classify(intArrayOf(1, 9)).single()
        assertEquals(listOf(1, 9, 3, 3), engine.calls.single().ids)
        assertEquals(2, scores[0].label)
        assertEquals(1.0, scores.sumOf { it.score }, 1e-12)
        assertTrue(scores[0].score > 0.99)
        assertEquals("label 2", scores[0].name)
        repeat(3) { classifier.classify(intArrayOf(7)) }
        assertEquals("bound once", 1, engine.bound)
    }

    @Test
    fun `scores and names are those of the manifest`() {
        val names = listOf("low", "middle", "high")
        fun scores(problemType: String?) = Classifier(manifest(false, names, problemType), FakeEngine(3) { 2 }).classify(intArrayOf(1)).single()
        assertEquals(listOf("high", "low", "middle"), scores(null).map { it.name })
        assertEquals(listOf(5.0, -1.0, -1.0), scores("regression").map { it.score })
        val several = scores("multi_label_classification").map { it.score }
        assertEquals(1 / (1 + Math.exp(-5.0)), several[0], 1e-12)
        assertEquals(1 / (1 + Math.exp(1.0)), several[1], 1e-12)
    }

    @Test
    fun `hidden states and texts that need a padding id are refused`() {
        val hidden = manifest(true).let { it.copy(graphs = it.graphs.map { graph -> graph.copy(outputs = graph.outputs.map { out -> out.copy(role = Role.HIDDEN_STATES) }) }) }
        assertFails<InvalidRequestException> { Classifier(hidden, FakeEngine(3)) }
        val unpadded = manifest(false).let { it.copy(tokens = it.tokens.copy(pad = null)) }
        val padding = assertFails<InvalidRequestException> { Classifier(unpadded, FakeEngine(3)).classify(intArrayOf(1)) }
        assertEquals(Phrase.NO_PADDING to Phrase.LENGTHEN, padding.said.phrase to padding.remedy.phrase)
        Classifier(unpadded, FakeEngine(3)).classify(intArrayOf(1, 2, 3, 4))
        val perToken = manifest(true).let { it.copy(tokens = it.tokens.copy(pad = null)) }
        Classifier(perToken, FakeEngine(3)).classify(intArrayOf(1))
    }

    @Test
    fun `with a label per token only real tokens are told`() {
        val classifier = Classifier(manifest(perToken = true), FakeEngine(3) { 1 })
        assertTrue(classifier.perToken)
        assertEquals(2, classifier.classify(intArrayOf(1, 9)).size)
    }

    @Test
    fun `a text that does not fit is refused`() {
        val classifier = Classifier(manifest(perToken = false), FakeEngine(3))
        assertFails<InvalidRequestException> { classifier.classify(intArrayOf()) }
        assertFails<InvalidRequestException> { classifier.classify(IntArray(5) { 1 }) }
        val unknown = assertFails<InvalidRequestException> { classifier.classify(intArrayOf(50)) }
        assertEquals(Phrase.UNKNOWN_TOKEN to Phrase.TAKE_OUT, unknown.said.phrase to unknown.remedy.phrase)
        assertFails<InvalidRequestException> { Classifier(fakeManifest(), FakeEngine(3)) }
        assertFails<InvalidRequestException> { Decoder(manifest(perToken = false), FakeEngine(3)) }
    }
}
