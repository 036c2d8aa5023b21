package dev.heliumedge.app

import android.Manifest
import android.app.Activity
import android.content.pm.PackageManager
import android.os.Build

/** Asks once, at the first import, whether its notification may be shown; the import goes on whatever the answer is. */
class NotificationPermission(private val activity: Activity, private val settings: SettingsStore) {
    /** Asks, unless the user has answered before or the system wants no permission, as before Android 13. */
    fun askOnce() {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.TIRAMISU || settings.askedForNotifications) return
        if (activity.checkSelfPermission(Manifest.permission.POST_NOTIFICATIONS) == PackageManager.PERMISSION_GRANTED) return
        settings.askedForNotifications = true
        activity.requestPermissions(arrayOf(Manifest.permission.POST_NOTIFICATIONS), REQUEST)
    }

    /** Takes the answer: what the service began to show before was not seen. */
    fun answered(request: Int, results: IntArray) {
        if (request == REQUEST && results.firstOrNull() == PackageManager.PERMISSION_GRANTED) ImportService.showAgain(activity)
    }

    private companion object {
        const val REQUEST = 2
    }
}
