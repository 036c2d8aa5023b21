package android.app;

import java.util.List;

public class ActivityManager {
    public static class MemoryInfo {
        public long availMem;
        public long threshold;
    }

    public List<ApplicationExitInfo> getHistoricalProcessExitReasons(String packageName, int pid, int maxNum) { return null; }

    public void getMemoryInfo(MemoryInfo outInfo) {}
}
