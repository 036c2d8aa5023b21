package dev.heliumedge.core

import java.io.File
import java.io.IOException

/** What Linux tells of this process and its processor; readable on phones without a permission. */
public object DeviceProbe {
    private const val MOST_THREADS = 6

    /** Memory that this process holds now, in bytes; 0 where the system does not tell. */
    public fun residentBytes(statm: File = File("/proc/self/statm"), pageSize: Long = 4096): Long =
        (lines(statm).firstOrNull()?.split(' ')?.getOrNull(1)?.toLongOrNull() ?: 0) * pageSize

    /**
     * Threads to start with: the cores that are not of the slowest cluster, at most 6. All cores would make the fast
     * ones wait for the slow ones in every operator.
     */
    public fun suggestedThreads(cpus: File = File("/sys/devices/system/cpu"), processors: Int = java.lang.Runtime.getRuntime().availableProcessors()): Int {
        val speeds = (0 until processors).mapNotNull { index ->
            lines(File(cpus, "cpu$index/cpufreq/cpuinfo_max_freq")).firstOrNull()?.trim()?.toLongOrNull()
        }
        val slowest = speeds.minOrNull()
        val fast = speeds.count { it != slowest }
        return (if (fast > 0) fast else maxOf(1, processors / 2)).coerceAtMost(MOST_THREADS)
    }

    private fun lines(file: File): List<String> = try {
        if (file.canRead()) file.readLines() else emptyList()
    } catch (_: IOException) {
        emptyList()
    }
}
