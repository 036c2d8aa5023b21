package android.app;

import android.content.Context;
import android.content.Intent;
import android.os.IBinder;

public abstract class Service extends Context {
    public static final int START_NOT_STICKY = 2;

    public abstract IBinder onBind(Intent intent);

    public int onStartCommand(Intent intent, int flags, int startId) { return 0; }

    public void onDestroy() {}

    public void onTimeout(int startId, int fgsType) {}

    public final void stopSelf() {}

    public final void startForeground(int id, Notification notification) {}

    public final void startForeground(int id, Notification notification, int foregroundServiceType) {}

    @Override
    public Context getApplicationContext() { return null; }
}
