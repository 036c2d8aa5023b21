package dev.heliumedge.app

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.os.PowerManager
import android.system.Os
import android.system.OsConstants
import dev.heliumedge.core.DeviceProbe

/** What Android tells of the device. */
class Device(private val context: Context) {
    private val pageSize = Os.sysconf(OsConstants._SC_PAGESIZE)

    /** Memory that the system would give before it ends other processes. */
    fun availableMemory(): Long {
        val info = ActivityManager.MemoryInfo()
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(info)
        return maxOf(0, info.availMem - info.threshold)
    }

    /** Memory that the app holds now. */
    fun residentBytes(): Long = DeviceProbe.residentBytes(pageSize = pageSize)

    /** Facts for a benchmark's document. */
    fun facts(threads: Int): Map<String, Any?> = mapOf(
        "device" to "${Build.MANUFACTURER} ${Build.MODEL}",
        "android" to Build.VERSION.RELEASE,
        "abi" to Build.SUPPORTED_ABIS.firstOrNull(),
        "threads" to threads,
        "resident_bytes" to residentBytes(),
        "thermal_status" to thermalStatus(),
    )

    /** 0 is cool, above 2 the processor is slowed down; null before Android 10. */
    private fun thermalStatus(): Int? =
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            (context.getSystemService(Context.POWER_SERVICE) as PowerManager).currentThermalStatus
        } else {
            null
        }
}
