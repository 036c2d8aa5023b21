package android.os.storage;

import java.io.File;
import java.io.IOException;
import java.util.UUID;

public class StorageManager {
    public UUID getUuidForPath(File path) throws IOException { return null; }

    public long getAllocatableBytes(UUID storageUuid) throws IOException { return 0; }

    public void allocateBytes(UUID storageUuid, long bytes) throws IOException {}
}
