package dev.heliumedge.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import dev.heliumedge.core.StoredItem

/**
 * Asks what waits for an answer, in dialogs. A dialog goes with its screen; the question is then asked again on the next
 * one, with what was written.
 */
class Asking(private val activity: Activity, private val model: Model, private val guarded: (() -> Unit) -> Unit) {
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
        dialogs.forEach(AlertDialog::dismiss)
        dialogs.clear()
    }

    /** Shows a dialog that goes when the screen does. */
    fun show(dialog: AlertDialog.Builder): AlertDialog = dialog.show().also(dialogs::add)

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
            is Question.LoadSuspect -> confirm(question, suspect(question), R.string.load_anyway) {
                tell(model.loading.openAnyway(question.bundle, memory = false))
            }
            is Question.WhichBundle -> open(question)
            is Question.WhichToDelete -> choose(question, R.string.delete, question.stored) { model.questions.ask(Question.Delete(it)) }
            is Question.Delete -> confirm(question, activity.getString(R.string.delete_this, model.words.stored(question.stored)), R.string.delete) {
                tell(model.loading.delete(question.stored))
            }
            is Question.EditSettings -> edit(question)
            is Question.Told -> show(builder(question, R.string.close).setMessage(model.words.error(question.error)))
            is Question.Report -> report(question)
        }
    }

    private fun suspect(question: Question.LoadSuspect) =
        "${activity.getString(R.string.suspect, question.bundle.name)} ${activity.getString(question.reason.text)}"

    private fun open(question: Question.WhichBundle) {
        val builder = chooser(question, R.string.open, question.bundles) { tell(model.loading.open(it.name)) }
        show(builder.setNeutralButton(R.string.delete) { _, _ -> answer(question) { tell(model.loading.chooseToDelete()) } })
    }

    private fun choose(question: Question, title: Int, stored: List<StoredItem>, chosen: (StoredItem) -> Unit) {
        show(chooser(question, title, stored, chosen))
    }

    private fun chooser(question: Question, title: Int, stored: List<StoredItem>, chosen: (StoredItem) -> Unit): AlertDialog.Builder =
        builder(question)
            .setTitle(title)
            .setItems(stored.map(model.words::stored).toTypedArray<CharSequence>()) { _, index -> answer(question) { chosen(stored[index]) } }

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
        show(
            builder(question)
                .setTitle(R.string.report)
                .setView(report.view)
                .setNeutralButton(R.string.keep) { _, _ -> answer(question) { keep(report.text()) } }
                .setPositiveButton(R.string.send) { _, _ -> answer(question) { send(report.text()) } },
        )
    }

    private fun keep(text: String) {
        val said = activity.getString(R.string.report_kept, model.reports.keep(text).path)
        model.screen.stats(said)
        model.screen.say(said)
    }

    private fun send(text: String) {
        keep(text)
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
