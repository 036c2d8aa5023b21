package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class ClassifierTest {
    private fun manifest(perToken: Boolean): Manifest {
        val shape = if (perToken) listOf(1L, 4, 3) else listOf(1L, 3)
        val graph = GraphSpec(
            "classifier.onnx", null, Phase.CLASSIFY, 4, null,
            listOf(TensorSpec("input_ids", Role.TOKENS, Dtype.INT64, listOf(1, 4))),
            listOf(TensorSpec("logits", Role.LOGITS, Dtype.FLOAT32, shape)),
        )
        return fakeManifest().copy(graphs = listOf(graph), cache = null)
    }

    @Test
    fun `a text gets every label, the likely one first`() {
        val engine = FakeEngine(3) { 2 }
        val classifier = Classifier(manifest(perToken = false), engine)
        val scores = classifier.classify(intArrayOf(1, 9)).single()
        assertEquals(listOf(1, 9, 3, 3), engine.calls.single().ids)
        assertEquals(2, scores[0].label)
        assertEquals(1.0, scores.sumOf { it.probability }, 1e-12)
        assertTrue(scores[0].probability > 0.99)
        repeat(3) { classifier.classify(intArrayOf(7)) }
        assertEquals("bound once", 1, engine.bound)
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
        assertFails<InvalidRequestException> { classifier.classify(intArrayOf(50)) }
        assertFails<InvalidRequestException> { Classifier(fakeManifest(), FakeEngine(3)) }
        assertFails<InvalidRequestException> { Decoder(manifest(perToken = false), FakeEngine(3)) }
    }
}
