package android.content;

import java.io.File;

public abstract class Context {
    public static final int MODE_PRIVATE = 0;
    public static final String ACTIVITY_SERVICE = "activity";
    public static final String CLIPBOARD_SERVICE = "clipboard";
    public static final String POWER_SERVICE = "power";

    public static final String NOTIFICATION_SERVICE = "notification";
    public static final String STORAGE_SERVICE = "storage";

    public Object getSystemService(String name) { return null; }

    public SharedPreferences getSharedPreferences(String name, int mode) { return null; }

    public ContentResolver getContentResolver() { return null; }

    public File getFilesDir() { return null; }

    public File getExternalFilesDir(String type) { return null; }

    public abstract Context getApplicationContext();

    public int checkSelfPermission(String permission) { return 0; }

    public String getPackageName() { return null; }

    public ComponentName startForegroundService(Intent service) { return null; }

    public void registerComponentCallbacks(ComponentCallbacks callback) {}

    public void startActivity(Intent intent) {}

    public final String getString(int resId) { return null; }

    public final String getString(int resId, Object... formatArgs) { return null; }
}
