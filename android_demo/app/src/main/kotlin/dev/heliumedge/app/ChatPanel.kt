package dev.heliumedge.app

import android.app.Activity
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.TextView
import dev.heliumedge.core.ChatState

/** The views of a conversation, shown in place of those of a text while there is one. */
class ChatPanel(private val activity: Activity, private val chat: ChatState) {
    /** The system message that is written. */
    val system: String get() = activity.findViewById<EditText>(R.id.system).text.toString()

    /** Shows what belongs to a conversation, or hides it. */
    fun update(busy: Boolean) {
        val current = chat.session
        val visibility = if (current == null) View.GONE else View.VISIBLE
        for (id in listOf(R.id.system, R.id.chat_buttons)) activity.findViewById<View>(id).visibility = visibility
        activity.findViewById<View>(R.id.new_conversation).isEnabled = !busy
        activity.findViewById<View>(R.id.regenerate).isEnabled = !busy && current?.canRegenerate == true
        val edit = activity.findViewById<Button>(R.id.edit)
        edit.isEnabled = !busy && current?.editable.orEmpty().isNotEmpty()
        edit.setText(if (current?.editing == null) R.string.edit else R.string.cancel_edit)
        activity.findViewById<TextView>(R.id.prompt).setHint(if (current == null) R.string.prompt_hint else R.string.message_hint)
        activity.findViewById<Button>(R.id.chat).setText(if (current == null) R.string.chat else R.string.continue_text)
    }
}
