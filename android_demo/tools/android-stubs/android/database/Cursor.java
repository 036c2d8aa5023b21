package android.database;

import java.io.Closeable;

public interface Cursor extends Closeable {
    boolean moveToNext();

    String getString(int columnIndex);

    @Override
    void close();
}
