package dev.heliumedge.app

import android.app.Activity
import android.view.View
import android.widget.ArrayAdapter
import android.widget.EditText
import android.widget.Spinner

/** A form that is being filled in. */
interface Form {
    /** Its fields. */
    val view: View

    /** Keeps what is written, because the form goes with its screen. */
    fun keep()
}

/** What is wrong with an answer: Play asks that users can say so within the app. */
class ReportForm(activity: Activity, private val report: Question.Report) : Form {
    override val view: View = activity.layoutInflater.inflate(R.layout.dialog_report, null)
    private val reasons = Reports.REASONS.keys.toList()
    private val reason = view.findViewById<Spinner>(R.id.reason)
    private val note = view.findViewById<EditText>(R.id.note)

    init {
        val names = Reports.REASONS.values.map { activity.getString(it) }
        reason.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, names.toTypedArray())
        reason.setSelection(maxOf(0, reasons.indexOf(report.draft.text(Reports.REASON))))
        note.setText(report.draft.text(Reports.NOTE))
    }

    override fun keep() {
        report.draft.write(Reports.REASON, reasons[reason.selectedItemPosition])
        report.draft.write(Reports.NOTE, note.text.toString())
    }

    /** The report as it is written now. */
    fun text(): String {
        keep()
        return Reports.text(report.draft.text(Reports.REASON), report.draft.text(Reports.NOTE), report.answer, report.output)
    }
}
