package android.content;

import android.net.Uri;

public class Intent {
    public static final String ACTION_OPEN_DOCUMENT_TREE = "android.intent.action.OPEN_DOCUMENT_TREE";

    public static final String ACTION_SEND = "android.intent.action.SEND";
    public static final String EXTRA_TEXT = "android.intent.extra.TEXT";

    public static final int FLAG_GRANT_READ_URI_PERMISSION = 0x00000001;
    public static final int FLAG_ACTIVITY_LAUNCHED_FROM_HISTORY = 0x00100000;

    public Intent() {}

    public Intent(String action) {}

    public Intent(Context packageContext, Class<?> cls) {}

    public static Intent createChooser(Intent target, CharSequence title) { return null; }

    public Intent setType(String type) { return this; }

    public Intent putExtra(String name, String value) { return this; }

    public int getFlags() { return 0; }

    public ComponentName getComponent() { return null; }

    public String getStringExtra(String name) { return null; }

    public Uri getData() { return null; }
}
