package dev.heliumedge.ort

import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.BundleLoader
import dev.heliumedge.core.Case
import dev.heliumedge.core.ChatLabels
import dev.heliumedge.core.ChatListener
import dev.heliumedge.core.ChatMessage
import dev.heliumedge.core.ChatRole
import dev.heliumedge.core.ChatSession
import dev.heliumedge.core.Conversations
import dev.heliumedge.core.CrashGuard
import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.GenerationOverrides
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.Runtime
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StopSignal
import dev.heliumedge.core.Vectors
import org.junit.Assert.assertArrayEquals
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

    private val settings = Settings(threads = 1, generation = GenerationOverrides(temperature = 0.0, maxNewTokens = 24))

    private val labels = ChatLabels("System", "You", "Model") { "$it forgotten" }

    private fun open(): LoadedBundle {
        val factory = EngineFactory { bundle, threads, allocator ->
            OrtGraphEngine(bundle, OrtOptions(threads), allocator) { System.getenv("ORT_REAL_LIB")?.substringAfter(".so.") ?: it.version }
        }
        val loader = BundleLoader(mapOf(Runtime.ONNX to factory), BufferAllocator.Direct, CrashGuard(File(temporary.root, "note")), null) { 1L shl 40 }
        return loader.load(Vectors.bundle("chat"), settings)!!
    }

    @Test
    fun `a conversation whose turns are taken back and given again is that of the Python host`() {
        open().use { loaded ->
            val session = ChatSession(loaded, labels)
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
            assertTrue("six turns at the end", session.turns.size / 2 == 6)
            println("${steps.size} answers in ${session.turns.size / 2} turns: \"${steps.last().text("text")}\" - \"${steps.last().text("answer")}\"")
        }
    }

    @Test
    fun `back at an earlier message the model says what it says where nothing came after it`() {
        val said = listOf("Hello", "My name is Rosa", "Wie heißt du?", "Was misst du?", "Gracias", "Thank you")
        open().use { long ->
            open().use { short ->
                val turns = long.saying(said).turns
                val conversations = Conversations(long.decoder!!, long.tokenizer, long.manifest)
                // From the end on, so that what is gone back to is what the long conversation left there.
                for (count in said.indices.reversed()) {
                    short.decoder!!.rewind()
                    assertEquals(turns.take(2 * count), short.saying(said.take(count)).turns)
                    val ids = conversations.ids(turns.take(2 * count) + ChatMessage(ChatRole.USER, "And what of $count?"))
                    val from = short.decoder!!.follow(ids)
                    assertTrue("$count turns", long.decoder!!.follow(ids) >= from)
                    long.decoder!!.rewind(from)
                    val back = long.logits(ids, from)
                    assertArrayEquals("$count turns", short.logits(ids, from), back, 0f)
                    short.decoder!!.rewind()
                    // Kernels for one row and for many differ: each may be off by what the bundle allows.
                    assertArrayEquals("$count turns anew", short.logits(ids, 0), back, 2 * long.manifest.golden!!.tolerance!!.toFloat())
                }
            }
        }
    }

    private fun LoadedBundle.saying(texts: List<String>): ChatSession {
        val session = ChatSession(this, labels)
        for (text in texts) session.say(text, settings, StopSignal(), GenerationStats(), Silent)
        return session
    }

    private fun LoadedBundle.logits(ids: IntArray, from: Int): FloatArray {
        val row = decoder!!.prefill(ids.copyOfRange(from, ids.size))!!
        return FloatArray(decoder!!.vocabSize) { row.buffer.get(row.offset + it) }
    }

    private object Silent : ChatListener {
        override fun onTranscript(text: String) = Unit

        override fun onPiece(piece: String) = Unit
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
            "edit" -> {
                startEdit(turns.size - 2 * step.int("back"))
                say(step.text("text"), settings, StopSignal(), stats, listener)
            }
            else -> regenerate(settings, StopSignal(), stats, listener)
        }
    }
}
