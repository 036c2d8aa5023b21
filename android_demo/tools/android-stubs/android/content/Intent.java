package android.content;

import android.net.Uri;

public class Intent {
    public static final String ACTION_OPEN_DOCUMENT_TREE = "android.intent.action.OPEN_DOCUMENT_TREE";

    public Intent(String action) {}

    public String getStringExtra(String name) { return null; }

    public Uri getData() { return null; }
}
