package dev.heliumedge.app

import android.app.Activity
import android.app.AlertDialog
import android.content.DialogInterface
import android.view.View
import android.widget.ArrayAdapter
import android.widget.EditText
import android.widget.Spinner
import android.widget.TextView
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.Settings

/** The settings in a dialog, which stays open with what was written while a value is out of range. */
class SettingsDialog(activity: Activity, private val store: SettingsStore, private val words: Words, private val draft: Draft) : Form {
    override val view: View = activity.layoutInflater.inflate(R.layout.dialog_settings, null)
    private val fields = FIELDS.mapValues { (_, id) -> view.findViewById<EditText>(id) }
    private val runtimes = listOf("") + Engines.factories.keys.map { it.id }
    private val runtime = view.findViewById<Spinner>(R.id.runtime)

    init {
        fields.forEach { (key, field) -> field.setText(draft.text(key)) }
        val names = runtimes.map { it.ifEmpty { activity.getString(R.string.runtime_any) } }
        runtime.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, names.toTypedArray())
        runtime.setSelection(maxOf(0, runtimes.indexOf(draft.text("runtime"))))
    }

    override fun keep() = texts().forEach(draft::write)

    /** Lets a tap save; [saved] is told whether the bundle has to be loaded again. */
    fun onSave(dialog: AlertDialog, saved: (reload: Boolean) -> Unit) {
        // Set now, or the button would close the dialog whatever is written in it.
        dialog.getButton(DialogInterface.BUTTON_POSITIVE).setOnClickListener {
            try {
                val before = loading(store.load())
                store.save(texts())
                dialog.dismiss()
                saved(loading(store.load()) != before)
            } catch (error: InvalidRequestException) {
                val problem = view.findViewById<TextView>(R.id.problem)
                problem.text = "${words.say(error.said)}. ${words.say(error.remedy)}"
                problem.requestFocus()
            }
        }
    }

    private fun texts() = fields.mapValues { (_, field) -> field.text.toString() } + ("runtime" to runtimes[runtime.selectedItemPosition])

    /** What a loaded bundle and its memory depend on; everything else holds from the next text on. */
    private fun loading(settings: Settings) = listOf(settings.runtime, settings.threads, settings.contextTokens)

    private companion object {
        /** Views of the settings that are written, by the name of their field. */
        val FIELDS = mapOf(
            "threads" to R.id.threads,
            "context" to R.id.context,
            "temperature" to R.id.temperature,
            "top_k" to R.id.top_k,
            "top_p" to R.id.top_p,
            "min_p" to R.id.min_p,
            "repetition_penalty" to R.id.repetition_penalty,
            "no_repeat_ngram_size" to R.id.no_repeat_ngram_size,
            "suppress_tokens" to R.id.suppress_tokens,
            "stop_strings" to R.id.stop_strings,
            "max_new_tokens" to R.id.max_new_tokens,
            "max_length" to R.id.max_length,
            "seed" to R.id.seed,
        )
    }
}
