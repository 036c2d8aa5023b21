package android.provider;

import android.net.Uri;

public final class DocumentsContract {
    public static final class Document {
        public static final String COLUMN_DOCUMENT_ID = "document_id";
        public static final String COLUMN_DISPLAY_NAME = "_display_name";
    }

    public static String getTreeDocumentId(Uri documentUri) { return null; }

    public static Uri buildDocumentUriUsingTree(Uri treeUri, String documentId) { return null; }

    public static Uri buildChildDocumentsUriUsingTree(Uri treeUri, String parentDocumentId) { return null; }
}
