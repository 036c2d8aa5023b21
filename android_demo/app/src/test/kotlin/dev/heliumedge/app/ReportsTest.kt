package dev.heliumedge.app

import dev.heliumedge.core.GenerationDefaults
import dev.heliumedge.core.GenerationOverrides
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StorageException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

class ReportsTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `a report has what it takes to see the answer again`() {
        val text = Reports.text("offensive", " It insults me. ", ANSWER, "The device is stupid.")
        val wanted = listOf(
            "reason: offensive", "note: It insults me.\n", "tiny, manifest ab12", "ONNX Runtime 1.2", "seed: 12345", "threads=4",
            "temperature=0.5", "topK=50", "prompt:\nThe device\n", "on the screen:\nThe device is stupid.",
        )
        assertEquals(text, emptyList<String>(), wanted.filter { it !in text })
    }

    @Test
    fun `what no model made can be reported as well`() {
        assertEquals("reason: other\n\non the screen:\nPassed", Reports.text("other", " ", null, "Passed"))
    }

    @Test
    fun `reports are kept beside each other, whole`() {
        var now = 0L
        val folder = File(temporary.root, "reports")
        val reports = Reports(folder) { now }
        val first = reports.keep("one ä")
        now = 1_000L * 60 * 60 * 24
        val second = reports.keep("two")
        assertEquals(listOf("one ä", "two"), listOf(first, second).map { it.readText() })
        assertEquals(listOf("report-19700101-000000-000.txt", "report-19700102-000000-000.txt"), folder.list()!!.sorted())
    }

    @Test
    fun `a folder that cannot be written is named`() {
        val file = temporary.newFile("reports")
        try {
            Reports(file).keep("text")
            throw AssertionError("it was kept in a file")
        } catch (error: HeliumException) {
            assertTrue("$error", error is StorageException && file.path in error.what)
        }
    }

    @Test
    fun `each reason has words of its own`() {
        assertEquals(Reports.REASONS.size, Reports.REASONS.values.toSet().size)
    }

    companion object {
        private val DEFAULTS = GenerationDefaults(doSample = true, temperature = 0.7, topK = 50, topP = 1.0, maxNewTokens = 9)
        private val SETTINGS = Settings(threads = 4, generation = GenerationOverrides(temperature = 0.5), seed = 12345)

        /** An answer to report. */
        val ANSWER = Answer("tiny", "ONNX Runtime 1.2", "ab12", "The device", SETTINGS, SETTINGS.generation.applyTo(DEFAULTS))
    }
}
