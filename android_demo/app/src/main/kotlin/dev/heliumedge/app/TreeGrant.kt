package dev.heliumedge.app

import android.content.ContentResolver
import android.content.Intent
import android.net.Uri

/** The right to read a folder of the picker, which would otherwise go with the screen that asked for it. */
class TreeGrant(private val resolver: ContentResolver, private val tree: Uri) : Hold {
    override fun take() {
        // What imports left that were killed: an app may keep only so many.
        resolver.persistedUriPermissions.map { it.uri }.filter { it != tree }.forEach(::leave)
        try {
            resolver.takePersistableUriPermission(tree, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        } catch (_: SecurityException) {
            // The folder's app lends it no longer than the screen lives.
        }
    }

    override fun release() = leave(tree)

    private fun leave(uri: Uri) {
        try {
            resolver.releasePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        } catch (_: SecurityException) {
            // It was never ours to keep.
        }
    }
}
