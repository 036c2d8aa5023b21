package dev.heliumedge.app

import android.content.Context
import android.os.PowerManager

/** So long without progress, and the processor may sleep: a provider that hangs must not cost a night's battery. */
private const val MOST_MILLIS = 10 * 60_000L

/** Keeps the processor awake with the screen off: a foreground service keeps the process, not the processor. */
class Awake(context: Context) : Hold {
    private val lock = (context.getSystemService(Context.POWER_SERVICE) as PowerManager)
        .newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "helium-edge:import")
        .apply { setReferenceCounted(false) }

    override fun take() = lock.acquire(MOST_MILLIS)

    /** There is progress: the time begins anew, also where it was up. */
    fun renew() = take()

    override fun release() {
        if (lock.isHeld) lock.release()
    }
}
