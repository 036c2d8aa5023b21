package dev.heliumedge.app

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder

private const val CHANNEL = "import"
private const val NOTE = 1

/** Keeps the process, and so the import that it works on, while another app is in front. It does nothing by itself. */
class ImportService : Service() {
    override fun onBind(intent: Intent): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val manager = getSystemService(Context.NOTIFICATION_SERVICE) as NotificationManager
        manager.createNotificationChannel(NotificationChannel(CHANNEL, getString(R.string.importing), NotificationManager.IMPORTANCE_LOW))
        val note = Notification.Builder(this, CHANNEL)
            .setSmallIcon(R.drawable.icon)
            .setContentTitle(getString(R.string.importing))
            .setOngoing(true)
            .build()
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            startForeground(NOTE, note, ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
        } else {
            startForeground(NOTE, note)
        }
        // A process that was killed has nothing to go on with: the next import resumes.
        return START_NOT_STICKY
    }

    /** The system's time for such a service is up: the import goes on as long as the process is let live. */
    override fun onTimeout(startId: Int, fgsType: Int) {
        stopSelf()
    }

    companion object {
        /** Begins to keep the process. Where the system does not allow it now, the import runs as long as the app is let live. */
        fun begin(context: Context) {
            try {
                context.startForegroundService(Intent(context, ImportService::class.java))
            } catch (_: IllegalStateException) {
                // ForegroundServiceStartNotAllowedException, which Android 9 has no class of.
            }
        }

        /** Lets it go. */
        fun end(context: Context) {
            context.stopService(Intent(context, ImportService::class.java))
        }
    }
}
