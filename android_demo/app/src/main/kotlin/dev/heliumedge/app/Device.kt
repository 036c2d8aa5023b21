package dev.heliumedge.app

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.os.PowerManager
import android.os.storage.StorageManager
import android.system.Os
import android.system.OsConstants
import dev.heliumedge.core.DeviceProbe
import java.io.File
import java.io.IOException

/** As many as Android keeps. */
private const val EXITS = 16

/** What Android tells of the device. */
class Device(private val context: Context) {
    private val pageSize = Os.sysconf(OsConstants._SC_PAGESIZE)
    private val activities get() = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager

    /** Memory that the system would give before it ends other processes. */
    fun availableMemory(): Long {
        val info = ActivityManager.MemoryInfo()
        activities.getMemoryInfo(info)
        return maxOf(0, info.availMem - info.threshold)
    }

    /** Space for [needed] bytes: what other apps only cache counts as free, and is made so where it has to be. */
    fun freeBytes(folder: File, needed: Long): Long {
        val storage = context.getSystemService(Context.STORAGE_SERVICE) as StorageManager
        return try {
            val volume = storage.getUuidForPath(folder)
            val free = storage.getAllocatableBytes(volume)
            if (needed in (folder.usableSpace + 1)..free) storage.allocateBytes(volume, needed)
            free
        } catch (_: IOException) {
            folder.usableSpace
        }
    }

    /** Memory that the app holds now. */
    fun residentBytes(): Long = DeviceProbe.residentBytes(pageSize = pageSize)

    /** How the last processes of the app ended; empty before Android 11, which does not tell. */
    fun exits(): List<Exit> {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return emptyList()
        return activities.getHistoricalProcessExitReasons(context.packageName, 0, EXITS).map { Exit(it.reason, it.status, it.timestamp) }
    }

    /** Facts for a benchmark's document; the threads are those of the bundle. */
    fun facts(): Map<String, Any?> = mapOf(
        "device" to "${Build.MANUFACTURER} ${Build.MODEL}",
        "android" to Build.VERSION.RELEASE,
        "abi" to Build.SUPPORTED_ABIS.firstOrNull(),
        "resident_bytes" to residentBytes(),
        "thermal_status" to thermalStatus(),
    )

    /** 0 is cool, above 2 the processor is slowed down; null before Android 10. */
    fun thermalStatus(): Int? =
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            (context.getSystemService(Context.POWER_SERVICE) as PowerManager).currentThermalStatus
        } else {
            null
        }
}
