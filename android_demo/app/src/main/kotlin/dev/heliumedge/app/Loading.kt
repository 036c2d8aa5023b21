package dev.heliumedge.app

import android.content.Context
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.MemoryEstimate
import dev.heliumedge.core.MissingFileException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StopSignal
import dev.heliumedge.core.StorageException
import dev.heliumedge.core.StoredItem
import dev.heliumedge.core.StoredKind
import java.io.File
import kotlin.concurrent.thread

/** Opens bundles and frees them, in the model's thread; it writes to the kept screen and knows no views. */
class Loading(private val context: Context, private val model: Model) {
    private val session = model.session
    private val screen = model.screen

    /** The bundle that was tried last. */
    @Volatile
    var tried: File? = null
        private set

    /** Says which bundle was loaded last, where none is now, or which one ended the process. */
    fun offerLast() {
        if (session.loaded != null || session.isBusy) return
        // A look at the storage alone, which may be slow, and no work that an order would have to wait for.
        thread(name = "helium-look") {
            val suspect = suspect()
            val text = suspect ?: model.settings.lastBundle?.takeIf(::isThere)?.let(::said)
            show {
                if (text != null && session.loaded == null && !session.isBusy) {
                    screen.facts(text)
                    if (suspect != null) screen.say(suspect)
                }
            }
        }
    }

    /** What is said of a bundle that ended the process while it was loaded; null where none did. */
    private fun suspect(): String? = try {
        model.guard.suspect()?.takeIf(::isThere)?.let { model.words.suspect(it, model.exitReason()) }
    } catch (_: StorageException) {
        // Said when a bundle is opened.
        null
    }

    /** Opens a bundle by its name, as a list or a computer asks for it; false where there is work already. */
    fun open(name: String): Boolean = session.start { stop -> open(find(name), stop) }

    /** Opens a bundle, unless it ended the app before: then the user is asked. False where there is work already. */
    fun open(folder: File): Boolean = session.start { stop -> open(folder, stop) }

    /** Loads a bundle that the user was warned of. */
    fun openAnyway(folder: File, memory: Boolean): Boolean = session.start { stop ->
        model.guard.forget()
        load(folder, stop, model.settings.load(), anyway = memory)
    }

    /** A bundle by its name. */
    fun find(name: String): File = model.store.bundle(name) ?: throw MissingFileException(Phrase.NO_FOLDER.with("bundles/$name"))

    private fun open(folder: File, stop: StopSignal) {
        if (model.guard.suspect() == folder.name) {
            val question = Question.LoadSuspect(folder, model.exitReason())
            show { model.questions.ask(question) }
        } else {
            load(folder, stop, model.settings.load(), anyway = false)
        }
    }

    /**
     * Loads a bundle, within work.
     *
     * @param quietly Nothing is read aloud: it is one load of many.
     * @return Null when it was stopped.
     */
    fun load(folder: File, stop: StopSignal, wanted: Settings, anyway: Boolean, quietly: Boolean = false): LoadedBundle? {
        tried = folder
        val (bundle, estimate) = model.loader.inspect(folder, wanted)
        val name = bundle.manifest.name
        val free = MemoryEstimate.megabytes(model.device.availableMemory())
        show { screen.facts(context.getString(R.string.needs, name, model.words.estimate(estimate), free)) }
        val checked = progress(R.string.checked, stop)
        model.chat.pause()
        val ready = try {
            session.load(folder, wanted, stop, anyway) { done, total ->
                checked(done, total)
                if (done == total) show { tell(context.getString(R.string.loading), quietly) }
            }
        } finally {
            // Stopped or failed it has freed the one before: the screen must not go on to show that.
            if (session.loaded == null) free()
        }
        if (ready == null) {
            stopped(quietly)
            return null
        }
        ready.decoder?.onChunk = { chunk, chunks -> if (chunks > 1) show { screen.stats(context.getString(R.string.chunk, chunk, chunks)) } }
        model.texts.goOn(ready)
        model.settings.lastBundle = folder.name
        show {
            screen.stats("")
            val loaded = context.getString(R.string.loaded, name, ready.engineName, model.words.estimate(estimate))
            screen.facts(loaded)
            if (!quietly) screen.say(loaded)
        }
        return ready
    }

    /** Says that work was stopped, in place of how far it had come. */
    fun stopped(quietly: Boolean = false) = show { tell(context.getString(R.string.end_stopped), quietly) }

    /** Frees the model. */
    fun unload() {
        if (session.loaded == null && !session.isBusy) return
        session.startNext { free() }
    }

    /** Frees the model, within work. */
    fun free() {
        model.chat.pause()
        session.release()
        val last = model.settings.lastBundle?.takeIf(::isThere)
        show { screen.facts(if (last == null) context.getString(R.string.no_bundle) else said(last)) }
    }

    /** Lists what is stored, and asks which bundle to open. */
    fun choose(): Boolean = session.start {
        val stored = model.storage.items()
        val openable = stored.filter { it.kind == StoredKind.BUNDLE }.sortedBy { it.name != model.settings.lastBundle }
        show {
            if (openable.isEmpty()) screen.output(context.getString(R.string.no_bundles_found))
            when {
                openable.isNotEmpty() -> model.questions.ask(Question.WhichBundle(openable))
                stored.isNotEmpty() -> model.questions.ask(Question.WhichToDelete(stored))
            }
        }
    }

    /** Lists what is stored, and asks what to delete. */
    fun chooseToDelete(): Boolean = session.start {
        val stored = model.storage.items()
        show { if (stored.isNotEmpty()) model.questions.ask(Question.WhichToDelete(stored)) }
    }

    /** Deletes something; the loaded bundle is freed before. */
    fun delete(stored: StoredItem): Boolean = session.start {
        if (session.loaded?.let { stored.isFolderOf(it.bundle) } == true) free()
        model.storage.delete(stored)
        show { tell(context.getString(R.string.deleted, model.words.stored(stored))) }
        if (session.loaded == null) free()
    }

    /** Says how far something is, for each percent; what it makes goes on as long as it is true. */
    fun progress(verb: Int, stop: StopSignal, tell: (percent: Int) -> Unit = {}): (Long, Long) -> Boolean {
        var shown = -1
        return { done, total ->
            val percent = if (total == 0L) 100 else (100 * done / total).toInt()
            if (percent != shown) {
                shown = percent
                show {
                    screen.stats(context.getString(verb, percent, MemoryEstimate.megabytes(total)))
                    tell(percent)
                }
            }
            !stop.isRequested
        }
    }

    /** Whether there is a bundle; one that may not be read is said when it is opened. */
    private fun isThere(name: String): Boolean = try {
        model.store.bundle(name) != null
    } catch (_: StorageException) {
        false
    }

    private fun said(last: String) = context.getString(R.string.last_bundle, last)

    private fun tell(text: String, quietly: Boolean = false) {
        screen.stats(text)
        if (!quietly) screen.say(text)
    }

    private fun show(block: () -> Unit) = session.deliver(block)
}
