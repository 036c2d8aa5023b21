package dev.heliumedge.app

import dev.heliumedge.core.NotEnoughMemoryException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.StorageException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Test
import java.io.File

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
    fun `a report that cannot be kept is asked for again with what was written`() {
        val report = Question.Report(Draft { "" }, "The device is stupid.", ReportsTest.ANSWER)
        report.draft.write(Reports.NOTE, "It insults me.")
        val problem = StorageException("the card is gone")
        val again = report.again(problem)
        assertEquals("It insults me.", again.draft.text(Reports.NOTE))
        assertEquals(listOf<Any?>("The device is stupid.", ReportsTest.ANSWER, problem), listOf(again.output, again.answer, again.problem))
        questions.ask(report)
        questions.answered(report)
        questions.ask(again)
        questions.attach(screen)
        assertSame("it is another question than the one that was answered", again, asked.single())
    }

    @Test
    fun `only a bundle that its estimate refused may be loaded anyway`() {
        val needed = NotEnoughMemoryException(Phrase.MEMORY_NEEDED.with(1, 2, 3, 4))
        val tried = File("bundles/tiny")
        val anyway = Question.of(needed, tried) as Question.LoadAnyway
        assertSame(tried, anyway.bundle)
        assertSame(needed, anyway.error)
        assertNull(Question.of(needed, null))
        for (phrase in listOf(Phrase.HEAP_FULL, Phrase.NO_BUFFER)) assertNull(Question.of(NotEnoughMemoryException(phrase.with(1, 2)), tried))
        assertNull(Question.of(StorageException("the card is gone"), tried))
    }

    @Test
    fun `a draft is what was written, and what was stored where nothing was`() {
        val draft = question.draft
        draft.write("threads", "")
        draft.write("seed", "7")
        assertEquals(listOf("", "7", "as stored"), listOf("threads", "seed", "context").map(draft::text))
    }
}
