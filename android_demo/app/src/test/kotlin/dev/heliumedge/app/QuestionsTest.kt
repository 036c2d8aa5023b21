package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Test

class QuestionsTest {
    private val questions = Questions()
    private val asked = ArrayList<Question>()
    private val screen: (Question) -> Unit = { asked.add(it) }
    private val question = Question.EditSettings(Draft { "as stored" })

    @Test
    fun `a question without an answer is asked again on the next screen`() {
        questions.attach(screen)
        questions.ask(question)
        questions.detach(screen)
        val second = ArrayList<Question>()
        questions.attach { second.add(it) }
        assertSame(question, asked.single())
        assertSame(question, second.single())
    }

    @Test
    fun `what comes up while there is no screen waits for one`() {
        questions.ask(question)
        questions.attach(screen)
        assertSame(question, asked.single())
    }

    @Test
    fun `an answer ends it, but no later question`() {
        questions.attach(screen)
        questions.ask(question)
        val later = Question.WhichToDelete(emptyList())
        questions.ask(later)
        questions.answered(question)
        assertSame(later, questions.pending)
        questions.answered(later)
        assertNull(questions.pending)
    }

    @Test
    fun `a screen that went does not take the place of the one that came`() {
        val old: (Question) -> Unit = { throw AssertionError("it is gone") }
        questions.attach(old)
        questions.attach(screen)
        questions.detach(old)
        questions.ask(question)
        assertSame(question, asked.single())
    }

    @Test
    fun `a draft is what was written, and what was stored where nothing was`() {
        val draft = question.draft
        draft.write("threads", "")
        draft.write("seed", "7")
        assertEquals(listOf("", "7", "as stored"), listOf("threads", "seed", "context").map(draft::text))
    }
}
