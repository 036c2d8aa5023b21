package dev.heliumedge.app

import android.os.Handler
import android.os.Looper
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

    private val text = ScreenText(Handler(Looper.getMainLooper()))
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
