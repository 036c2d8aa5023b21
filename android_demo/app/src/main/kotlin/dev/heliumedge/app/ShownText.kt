package dev.heliumedge.app

import android.app.Activity
import android.view.View
import android.widget.EditText
import android.widget.ScrollView
import android.widget.TextView

/** The views that show the kept text. */
class ShownText(private val activity: Activity) : ScreenText.View {
    private var said = ""

    override fun facts(text: String) {
        view<TextView>(R.id.facts).text = text
    }

    override fun stats(text: String) {
        view<TextView>(R.id.stats).text = text
    }

    override fun output(text: String) {
        view<TextView>(R.id.output).text = text
    }

    override fun append(text: String) {
        val scroll = view<ScrollView>(R.id.scroll)
        // Who scrolled up reads there.
        val follows = !scroll.canScrollVertically(1)
        view<TextView>(R.id.output).append(text)
        if (follows) scroll.post { scroll.scrollTo(0, scroll.getChildAt(0).height) }
    }

    override fun draft(text: String) {
        val prompt = view<EditText>(R.id.prompt)
        // What was written meanwhile stays.
        if (prompt.text.isEmpty()) prompt.setText(text)
    }

    override fun say(text: String) {
        // The same words are no change, and would not be said a second time.
        said = if (text == said) "$text\u00a0" else text
        view<View>(R.id.said).contentDescription = said
    }

    private fun <T : View> view(id: Int): T = activity.findViewById(id)
}
