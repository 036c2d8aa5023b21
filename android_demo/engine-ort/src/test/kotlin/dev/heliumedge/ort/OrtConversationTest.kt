package dev.heliumedge.ort

import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.BundleLoader
import dev.heliumedge.core.Case
import dev.heliumedge.core.ChatLabels
import dev.heliumedge.core.ChatListener
import dev.heliumedge.core.ChatSession
import dev.heliumedge.core.CrashGuard
import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.GenerationOverrides
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.Runtime
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StopSignal
import dev.heliumedge.core.Vectors
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** The chat fine-tune that the Python package trained and exported, end to end: loader, template, session, runtime. */
class OrtConversationTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `a conversation whose turns are taken back and given again is that of the Python host`() {
        val factory = EngineFactory { bundle, threads, allocator ->
            OrtGraphEngine(bundle, OrtOptions(threads), allocator) { System.getenv("ORT_REAL_LIB")?.substringAfter(".so.") ?: it.version }
        }
        val loader = BundleLoader(mapOf(Runtime.ONNX to factory), BufferAllocator.Direct, CrashGuard(File(temporary.root, "note")), null) { 1L shl 40 }
        val settings = Settings(threads = 1, generation = GenerationOverrides(temperature = 0.0, maxNewTokens = 24))
        loader.load(Vectors.bundle("chat"), settings)!!.use { loaded ->
            val session = ChatSession(loaded, ChatLabels("System", "You", "Model") { "$it forgotten" })
            session.reset("Answer in one sentence.")
            val steps = Vectors.cases("conversation.json")
            assertTrue(steps.count { it.text("action") != "say" } >= 4)
            for ((index, step) in steps.withIndex()) {
                val answer = StringBuilder()
                val stats = GenerationStats()
                session.run(step, settings, stats, answer)
                val expected = listOf(step.text("answer"), step.int("new_tokens"), step.int("reused"), step.text("stop"))
                assertEquals("step $index", expected, listOf(answer.toString(), stats.newTokens, stats.reusedTokens, stats.stopReason!!.name.lowercase()))
                assertEquals("step $index", step.int("prompt_tokens"), stats.reusedTokens + stats.promptTokens)
                if (index > 0) assertTrue("step $index reuses the cache", stats.reusedTokens > 0)
            }
            assertEquals(steps.count { it.text("action") == "say" }, session.turns.size / 2)
            println("${steps.size} answers in ${session.turns.size / 2} turns: \"${steps.last().text("text")}\" - \"${steps.last().text("answer")}\"")
        }
    }

    private fun ChatSession.run(step: Case, settings: Settings, stats: GenerationStats, answer: StringBuilder) {
        val listener = object : ChatListener {
            override fun onTranscript(text: String) = Unit

            override fun onPiece(piece: String) {
                answer.append(piece)
            }
        }
        when (step.text("action")) {
            "say" -> say(step.text("text"), settings, StopSignal(), stats, listener)
            "edit" -> edit(step.text("text"), settings, StopSignal(), stats, listener)
            else -> regenerate(settings, StopSignal(), stats, listener)
        }
    }
}
