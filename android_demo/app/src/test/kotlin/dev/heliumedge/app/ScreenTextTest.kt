package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Test

class ScreenTextTest {
    private class Screen : ScreenText.View {
        val log = ArrayList<String>()

        override fun facts(text: String) = add("facts", text)

        override fun stats(text: String) = add("stats", text)

        override fun output(text: String) = add("output", text)

        override fun append(text: String) = add("append", text)

        override fun draft(text: String) = add("draft", text)

        override fun say(text: String) = add("say", text)

        private fun add(what: String, text: String) {
            log.add("$what $text".trim())
        }
    }

    /** What is to be run later, with its delay. */
    private val waiting = ArrayList<Pair<Runnable, Long>>()

    private val text = ScreenText { block, millis -> waiting.add(block to millis) }
    private val screen = Screen()

    @Test
    fun `a screen that comes shows all that there is`() {
        text.facts("loaded")
        text.output("The")
        text.append(" device")
        text.stats("9 tokens/s")
        text.attach(screen)
        assertEquals(listOf("facts loaded", "stats 9 tokens/s", "output The device"), screen.log)
    }

    @Test
    fun `pieces that come close together are laid out once, and none twice`() {
        text.attach(screen)
        screen.log.clear()
        listOf("The", " dev", "ice").forEach(text::append)
        assertEquals("not yet", emptyList<String>(), screen.log)
        assertEquals(listOf(50L), waiting.map { it.second })
        waiting.removeAt(0).first.run()
        text.append(" is")
        waiting.removeAt(0).first.run()
        assertEquals(listOf("append The device", "append  is"), screen.log)
        text.append(" warm")
        text.output("Passed")
        waiting.removeAt(0).first.run()
        assertEquals("what was replaced does not come behind it", listOf("output Passed"), screen.log.drop(2))
    }

    @Test
    fun `a screen that is still there is left alone`() {
        text.attach(screen)
        screen.log.clear()
        text.attach(screen)
        assertEquals(emptyList<String>(), screen.log)
    }

    @Test
    fun `a message that was refused and a result that nobody heard wait for the next screen, once`() {
        text.attach(screen)
        text.detach(screen)
        screen.log.clear()
        text.draft("Hello")
        text.say("stopped")
        text.attach(screen)
        assertEquals(listOf("stats", "output", "draft Hello", "say stopped"), screen.log)
        val next = Screen()
        text.attach(next)
        assertEquals(listOf("stats", "output"), next.log)
    }

    @Test
    fun `figures are shown and not said`() {
        text.attach(screen)
        screen.log.clear()
        repeat(3) { text.stats("$it") }
        text.say("The model ended it.")
        assertEquals(listOf("stats 0", "stats 1", "stats 2", "say The model ended it."), screen.log)
    }

    @Test
    fun `how a text was made is kept with it, and goes with it`() {
        val answer = ReportsTest.ANSWER
        text.output("The", answer)
        text.append(" device")
        assertSame(answer, text.answer)
        text.output("Passed")
        assertNull(text.answer)
    }
}
