package dev.heliumedge.app

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder

private const val CHANNEL = "import"
private const val NOTE = 1

/**
 * Keeps the process, and so the import that it works on, while another app is in front, and says how far it is. It does
 * nothing by itself; the main thread alone touches it.
 */
class ImportService : Service() {
    private val manager get() = getSystemService(Context.NOTIFICATION_SERVICE) as NotificationManager

    override fun onBind(intent: Intent): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        manager.createNotificationChannel(NotificationChannel(CHANNEL, getString(R.string.importing), NotificationManager.IMPORTANCE_LOW))
        try {
            toFront()
        } catch (_: IllegalStateException) {
            // Its hours of the day are used up: the import goes on as long as the process is let live.
            wanted = false
        }
        running = this
        // An import that failed at once ended before this began, and a service that was never in front may not be stopped.
        if (!wanted) stopSelf()
        // A process that was killed has nothing to go on with: the next import resumes.
        return START_NOT_STICKY
    }

    override fun onDestroy() {
        super.onDestroy()
        if (running === this) running = null
        // One that cannot be swiped away must not outlive its service.
        manager.cancel(NOTE)
    }

    /** The system's time for such a service is up: the import goes on as long as the process is let live. */
    override fun onTimeout(startId: Int, fgsType: Int) = leave()

    /** Ends it; nothing that is still on its way may show the notification again. */
    private fun leave() {
        running = null
        stopSelf()
    }

    private fun toFront() {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            startForeground(NOTE, note(percent), ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
        } else {
            startForeground(NOTE, note(percent))
        }
    }

    /** What the user sees of it; a tap leads to the app. */
    private fun note(percent: Int): Notification {
        val app = PendingIntent.getActivity(this, 0, Intent(this, MainActivity::class.java), PendingIntent.FLAG_IMMUTABLE)
        return Notification.Builder(this, CHANNEL)
            .setSmallIcon(R.drawable.note)
            .setContentTitle(getString(if (loads) R.string.loading else R.string.importing))
            .setContentIntent(app)
            .setProgress(100, percent, loads || percent == 0)
            .setOnlyAlertOnce(true)
            .setOngoing(true)
            .build()
    }

    companion object {
        /** Whether an import goes on that the service is for. */
        private var wanted = false
        private var percent = 0

        /** Whether all is copied, and what came is being loaded. */
        private var loads = false

        /** The service once it is in front, until it ends. */
        private var running: ImportService? = null

        /** Begins to keep the process. Where the system does not allow it now, the import runs as long as the app is let live. */
        fun begin(context: Context) {
            wanted = true
            percent = 0
            loads = false
            start(context)
        }

        /** Shows the notification again, which the user has only now allowed. */
        fun showAgain(context: Context) {
            if (wanted) start(context)
        }

        /** Says how much is copied. */
        fun progress(copied: Int) {
            percent = copied
            show()
        }

        /** Says that the copy is being loaded. */
        fun loads() {
            loads = true
            show()
        }

        private fun show() {
            running?.let { it.manager.notify(NOTE, it.note(percent)) }
        }

        /** Lets it go. */
        fun end() {
            wanted = false
            running?.leave()
        }

        private fun start(context: Context) {
            try {
                context.startForegroundService(Intent(context, ImportService::class.java))
            } catch (_: IllegalStateException) {
                // ForegroundServiceStartNotAllowedException, which Android 9 has no class of.
            }
        }
    }
}
