package dev.heliumedge.app

import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.NotEnoughMemoryException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.StoredItem
import java.io.File

/** What the user is asked, and what they have written so far. */
sealed class Question {
    /** Whether to load what there is no memory for. */
    class LoadAnyway(val bundle: File, val error: NotEnoughMemoryException) : Question()

    /** Whether to load what ended the app before. */
    class LoadSuspect(val bundle: File, val reason: ExitReason) : Question()

    /** Which bundle to open. */
    class WhichBundle(val bundles: List<StoredItem>) : Question()

    /** What to delete. */
    class WhichToDelete(val stored: List<StoredItem>) : Question()

    /** Whether to delete it. */
    class Delete(val stored: StoredItem) : Question()

    /** The settings, as texts of their fields. */
    class EditSettings(val draft: Draft) : Question()

    /** Nothing but that something was not done, beside a text that goes on. */
    class Told(val error: HeliumException) : Question()

    /** What is wrong with the answer that is shown; [problem] is why the report could not be kept just now. */
    class Report(val draft: Draft, val output: String, val answer: Answer?, val problem: HeliumException? = null) : Question() {
        /** The same once more, with all that was written. */
        fun again(problem: HeliumException) = Report(draft, output, answer, problem)
    }

    /** Nothing: what the app says of itself. */
    class About : Question()

    /** Which benchmark to run. */
    class WhichBenchmark : Question()

    /** Which message of the conversation to change. */
    class WhichMessage : Question()

    companion object {
        /**
         * What to ask because of an error; null for nothing.
         *
         * @param tried The bundle that was tried last.
         */
        fun of(error: HeliumException, tried: File?): Question? =
            // Other kinds of memory that lack are no estimate, which might be wrong, nor need they be of that bundle.
            if (error is NotEnoughMemoryException && error.said.phrase == Phrase.MEMORY_NEEDED) tried?.let { LoadAnyway(it, error) } else null
    }
}

/** Texts of a form that is being filled in, by the names of its fields. */
class Draft(private val before: (String) -> String) {
    private val written = HashMap<String, String>()

    /** What was written, or stood there before. */
    fun text(field: String): String = written[field] ?: before(field)

    /** Keeps what was written. */
    fun write(field: String, text: String) {
        written[field] = text
    }
}

/** The question that waits for an answer; it outlives the dialog, which goes with its screen. The main thread alone touches it. */
class Questions {
    private var asker: ((Question) -> Unit)? = null

    /** The question without an answer. */
    var pending: Question? = null
        private set

    /** Asks on a screen from now on, first what has no answer yet. */
    fun attach(screen: (Question) -> Unit) {
        asker = screen
        pending?.let(screen)
    }

    /** The screen goes; its question stays. */
    fun detach(screen: (Question) -> Unit) {
        if (asker === screen) asker = null
    }

    /** Asks, in place of what was asked before. */
    fun ask(question: Question) {
        pending = question
        asker?.invoke(question)
    }

    /** It has an answer, be it no. */
    fun answered(question: Question) {
        if (pending === question) pending = null
    }
}
