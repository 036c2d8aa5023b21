package dev.heliumedge.app

import android.content.Context
import android.os.PowerManager

/** So long without progress, and the processor may sleep: a provider that hangs must not cost a night's battery. */
private const val MOST_MILLIS = 10 * 60_000L

/** Each renewal is a call to the system, and bytes come in thousands of pieces. */
private const val RENEWAL_NANOS = 60_000_000_000L

/** Keeps the processor awake with the screen off: a foreground service keeps the process, not the processor. */
class Awake(context: Context) : Hold {
    private val lock = (context.getSystemService(Context.POWER_SERVICE) as PowerManager)
        .newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "helium-edge:import")
        .apply { setReferenceCounted(false) }

    private val renewal = Seldom(RENEWAL_NANOS)

    override fun take() = lock.acquire(MOST_MILLIS)

    /** There is progress, by however few bytes: the time begins anew, also where it was up. */
    fun renew() {
        // The clock stands still while the processor sleeps, which it may once the time is up.
        if (renewal.isDue() || !lock.isHeld) take()
    }

    override fun release() {
        if (lock.isHeld) lock.release()
    }
}
