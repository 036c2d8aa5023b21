package android.os;

import android.system.ErrnoException;
import java.io.Closeable;
import java.nio.ByteBuffer;

public final class SharedMemory implements Closeable {
    public static SharedMemory create(String name, int size) throws ErrnoException { return null; }

    public static void unmap(ByteBuffer mapping) {}

    public ByteBuffer mapReadWrite() throws ErrnoException { return null; }

    @Override
    public void close() {}
}
