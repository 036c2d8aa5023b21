package dev.heliumedge.app

import android.content.Context
import android.content.Intent
import dev.heliumedge.core.Manifest

/** What the app says of itself and of the model. */
class About(private val context: Context) {
    /** The text of the page: whose the model is, under which licence, and that its texts may be wrong. */
    fun text(manifest: Manifest?): String {
        val model = if (manifest == null) {
            context.getString(R.string.no_bundle)
        } else {
            val unknown = context.getString(R.string.unknown)
            context.getString(R.string.about_model, manifest.name, manifest.source.checkpoint ?: unknown, manifest.source.license ?: unknown)
        }
        return "$model\n\n${context.getString(R.string.about_app)}"
    }

    companion object {
        /** Hands a text to an app of the user's choice: this one has no network. */
        fun sending(text: String): Intent = Intent(Intent.ACTION_SEND).setType("text/plain").putExtra(Intent.EXTRA_TEXT, text)
    }
}
