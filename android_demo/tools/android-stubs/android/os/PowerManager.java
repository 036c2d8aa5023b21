package android.os;

public final class PowerManager {
    public static final int PARTIAL_WAKE_LOCK = 0x00000001;

    public WakeLock newWakeLock(int levelAndFlags, String tag) { return null; }

    public int getCurrentThermalStatus() { return 0; }

    public final class WakeLock {
        public void setReferenceCounted(boolean value) {}

        public void acquire(long timeout) {}

        public void release() {}

        public boolean isHeld() { return false; }
    }
}
