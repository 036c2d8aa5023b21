package android.content;

import android.database.Cursor;
import android.net.Uri;
import java.io.FileNotFoundException;
import java.io.InputStream;
import java.util.List;

public abstract class ContentResolver {
    public final Cursor query(Uri uri, String[] projection, String selection, String[] selectionArgs, String sortOrder) { return null; }

    public final InputStream openInputStream(Uri uri) throws FileNotFoundException { return null; }

    public void takePersistableUriPermission(Uri uri, int modeFlags) {}

    public void releasePersistableUriPermission(Uri uri, int modeFlags) {}

    public List<UriPermission> getPersistedUriPermissions() { return null; }
}
