package dev.heliumedge.app

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import dev.heliumedge.core.BundleSource
import java.io.IOException
import java.io.InputStream

/** A folder behind the system's picker; paths are looked up level by level, by display name. */
class TreeSource(private val resolver: ContentResolver, private val tree: Uri) : BundleSource {
    override fun open(path: String): InputStream? = try {
        find(path)
    } catch (error: SecurityException) {
        throw IOException("the system no longer gives access to the folder", error)
    } catch (error: IllegalArgumentException) {
        throw IOException("the folder's app does not know it any more", error)
    }

    private fun find(path: String): InputStream? {
        var id: String? = DocumentsContract.getTreeDocumentId(tree)
        for (name in path.split('/')) id = child(id ?: return null, name)
        return resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, id ?: return null))
    }

    private fun child(parent: String, name: String): String? {
        val columns = arrayOf(DocumentsContract.Document.COLUMN_DOCUMENT_ID, DocumentsContract.Document.COLUMN_DISPLAY_NAME)
        val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, parent)
        resolver.query(children, columns, null, null, null)?.use { cursor ->
            while (cursor.moveToNext()) if (cursor.getString(1) == name) return cursor.getString(0)
        }
        return null
    }
}
