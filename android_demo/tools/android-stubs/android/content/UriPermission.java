package android.content;

import android.net.Uri;

public final class UriPermission {
    public Uri getUri() { return null; }
}
