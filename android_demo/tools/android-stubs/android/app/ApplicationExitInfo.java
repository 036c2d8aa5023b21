package android.app;

public final class ApplicationExitInfo {
    public int getReason() { return 0; }

    public int getStatus() { return 0; }

    public long getTimestamp() { return 0; }
}
