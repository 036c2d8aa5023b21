package android.content;

import android.net.Uri;

public class Intent {
    public static final String ACTION_OPEN_DOCUMENT_TREE = "android.intent.action.OPEN_DOCUMENT_TREE";

    public static final String ACTION_SEND = "android.intent.action.SEND";
    public static final String EXTRA_TEXT = "android.intent.extra.TEXT";

    public Intent() {}

    public Intent(String action) {}

    public Intent(Context packageContext, Class<?> cls) {}

    public static Intent createChooser(Intent target, CharSequence title) { return null; }

    public Intent setType(String type) { return this; }

    public Intent putExtra(String name, String value) { return this; }

    public ComponentName getComponent() { return null; }

    public String getStringExtra(String name) { return null; }

    public Uri getData() { return null; }
}
