package dev.heliumedge.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import dev.heliumedge.core.ChatSession
import dev.heliumedge.core.StorageException

/** As much of a message as a line of a list has room for. */
private const val SHOWN_CHARACTERS = 80

/**
 * Asks what waits for an answer, in dialogs. A dialog goes with its screen; the question is then asked again on the next
 * one, with what was written.
 *
 * @param guarded Runs a block, whose errors become messages.
 * @param rewrite Lets the message at a place of the conversation be changed.
 */
class Asking(
    private val activity: Activity,
    private val model: Model,
    private val guarded: (() -> Unit) -> Unit,
    private val rewrite: (ChatSession, Int) -> Unit,
) {
    private val dialogs = ArrayList<AlertDialog>()
    private var shown: Question? = null
    private var form: Form? = null
    private val asker: (Question) -> Unit = ::ask

    /** Asks on this screen from now on. */
    fun attach() = model.questions.attach(asker)

    /** The screen goes, or hides. */
    fun detach() {
        form?.keep()
        model.questions.detach(asker)
    }

    /** Takes the dialogs away: a screen that goes may leave none. */
    fun close() {
        dialogs.toList().forEach(AlertDialog::dismiss)
        dialogs.clear()
    }

    /** Shows a dialog that goes when the screen does. */
    private fun show(dialog: AlertDialog.Builder): AlertDialog =
        dialog.setOnDismissListener { gone -> dialogs.removeAll { it === gone } }.show().also(dialogs::add)

    private fun ask(question: Question) {
        // A screen that was only hidden still shows it.
        if (question === shown) return
        form?.keep()
        form = null
        shown = question
        when (question) {
            is Question.LoadAnyway -> confirm(question, model.words.error(question.error), R.string.load_anyway) {
                tell(model.loading.openAnyway(question.bundle, memory = true))
            }
            is Question.LoadSuspect -> confirm(question, model.words.suspect(question.bundle.name, question.reason), R.string.load_anyway) {
                tell(model.loading.openAnyway(question.bundle, memory = false))
            }
            is Question.WhichBundle -> open(question)
            is Question.WhichToDelete -> show(
                chooser(question, question.stored.map(model.words::stored)) { model.questions.ask(Question.Delete(question.stored[it])) }.setTitle(R.string.delete),
            )
            is Question.Delete -> confirm(question, activity.getString(R.string.delete_this, model.words.stored(question.stored)), R.string.delete) {
                tell(model.loading.delete(question.stored))
            }
            is Question.EditSettings -> edit(question)
            is Question.Told -> show(builder(question, R.string.close).setMessage(model.words.error(question.error)))
            is Question.Report -> report(question)
            is Question.About -> show(
                builder(question, R.string.close).setTitle(R.string.about).setMessage(About(activity).text(model.session.loaded?.manifest)),
            )
            is Question.WhichBenchmark -> benchmark(question)
            is Question.WhichMessage -> message(question)
        }
    }

    private fun open(question: Question.WhichBundle) {
        val builder = chooser(question, question.bundles.map(model.words::stored)) { tell(model.loading.open(question.bundles[it].name)) }.setTitle(R.string.open)
        show(builder.setNeutralButton(R.string.delete) { _, _ -> answer(question) { tell(model.loading.chooseToDelete()) } })
    }

    private fun benchmark(question: Question) {
        val kinds = listOf(R.string.benchmark_threads, R.string.benchmark_sustained).map { activity.getString(it) }
        show(chooser(question, kinds) { tell(if (it == 0) model.measuring.benchmark() else model.measuring.sustain()) })
    }

    private fun message(question: Question) {
        // The last one first: it is the one that most are after.
        val messages = model.chat.session?.run { editable.asReversed().map { it to turns[it].content.take(SHOWN_CHARACTERS) } }.orEmpty()
        // Its bundle was freed meanwhile.
        if (messages.isEmpty()) return answer(question) {}
        val builder = chooser(question, messages.map { it.second }) { index ->
            // Work may have begun while the list was open, as at the order of a computer.
            if (!model.session.isBusy) model.chat.session?.let { rewrite(it, messages[index].first) }
        }
        show(builder.setTitle(R.string.edit_which))
    }

    private fun chooser(question: Question, texts: List<String>, chosen: (Int) -> Unit): AlertDialog.Builder =
        builder(question).setItems(texts.toTypedArray<CharSequence>()) { _, index -> answer(question) { chosen(index) } }

    private fun confirm(question: Question, message: String, yes: Int, then: () -> Unit) {
        show(builder(question).setMessage(message).setPositiveButton(yes) { _, _ -> answer(question, then) })
    }

    private fun edit(question: Question.EditSettings) {
        val settings = SettingsDialog(activity, model.settings, model.words, question.draft)
        form = settings
        val dialog = show(builder(question).setTitle(R.string.settings).setView(settings.view).setPositiveButton(R.string.save, null))
        settings.onSave(dialog) { reload ->
            answer(question) { if (reload) model.session.loaded?.let { tell(model.loading.open(it.bundle.folder)) } }
        }
    }

    private fun report(question: Question.Report) {
        val report = ReportForm(activity, question)
        form = report
        val builder = builder(question)
            .setTitle(R.string.report)
            .setView(report.view)
            .setNeutralButton(R.string.keep) { _, _ -> answer(question) { keep(question, report.text()) } }
            .setPositiveButton(R.string.send) { _, _ -> answer(question) { send(question, report.text()) } }
        question.problem?.let { builder.setMessage(model.words.error(it)) }
        show(builder)
    }

    private fun keep(question: Question.Report, text: String) {
        val said = try {
            activity.getString(R.string.report_kept, model.reports.keep(text).name)
        } catch (error: StorageException) {
            // Nobody is to write it a second time, nor to lose the answer behind a message.
            return model.questions.ask(question.again(error))
        }
        model.screen.stats(said)
        model.screen.say(said)
    }

    private fun send(question: Question.Report, text: String) {
        keep(question, text)
        // Also what could not be kept: there is a way to report it all the same.
        activity.startActivity(Intent.createChooser(About.sending(text), activity.getString(R.string.report)))
    }

    /** A dialog with a no, which a tap beside it or "back" is as well. */
    private fun builder(question: Question, no: Int = R.string.cancel) = AlertDialog.Builder(activity)
        .setNegativeButton(no) { _, _ -> answer(question) {} }
        .setOnCancelListener { answer(question) {} }

    private fun answer(question: Question, then: () -> Unit) {
        model.questions.answered(question)
        if (shown === question) {
            shown = null
            form = null
        }
        guarded(then)
    }

    /** Nothing is dropped without a word because work began meanwhile. */
    private fun tell(started: Boolean) {
        if (!started) throw busy()
    }
}
