package dev.heliumedge.core

import java.io.File
import java.io.IOException

/** What Linux tells of this process and its processor; readable on phones without a permission. */
public object DeviceProbe {
    private const val MOST_THREADS = 6

    /** Cores of less than this share of the fastest one are not worth a thread: every operator would wait for them. */
    private const val WORTH_A_THREAD = 0.6

    /** Arm's cores that execute in order, by their part number: A35, A53, A55, A510, A520. */
    private val IN_ORDER = setOf("0xd04", "0xd03", "0xd05", "0xd46", "0xd80")

    /** What a cycle of such a core does, against one of its big neighbours; roughly, for kernels that do not say it. */
    private const val IN_ORDER_SHARE = 0.4

    /** Memory that this process holds now, in bytes; 0 where the system does not tell. */
    public fun residentBytes(statm: File = File("/proc/self/statm"), pageSize: Long = 4096): Long =
        (lines(statm).firstOrNull()?.split(' ')?.getOrNull(1)?.toLongOrNull() ?: 0) * pageSize

    /**
     * Threads to start with: the cores of at least 60 % of the fastest one's capacity, at most 6.
     *
     * The kernel tells the capacity of each core (`cpu_capacity`, the fastest has 1024). Where it does not, it is taken
     * from the highest frequency and the kind of core, since little cores of almost the same frequency do far less.
     *
     * @param cpuInfo `/proc/cpuinfo`, which tells the kinds.
     */
    public fun suggestedThreads(
        cpus: File = File("/sys/devices/system/cpu"),
        processors: Int = java.lang.Runtime.getRuntime().availableProcessors(),
        cpuInfo: File = File("/proc/cpuinfo"),
    ): Int {
        val capacities = told(cpus, processors, "cpu_capacity") ?: estimated(cpus, processors, cpuInfo)
        val fast = if (capacities == null) maxOf(1, processors / 2) else capacities.count { it >= WORTH_A_THREAD * capacities.max() }
        return fast.coerceAtMost(MOST_THREADS)
    }

    /** Numbers of threads that are worth measuring on this device, ascending: those between two and all of its cores. */
    public fun threadsToTry(processors: Int = java.lang.Runtime.getRuntime().availableProcessors()): List<Int> =
        listOf(1, 2, 3, 4, 6, 8).filter { it <= processors && (it > 1 || processors == 1) }

    private fun estimated(cpus: File, processors: Int, cpuInfo: File): List<Double>? {
        val speeds = told(cpus, processors, "cpufreq/cpuinfo_max_freq") ?: return null
        val parts = lines(cpuInfo).filter { it.startsWith("CPU part") }.map { it.substringAfter(':').trim() }
        return speeds.mapIndexed { index, speed -> if (parts.getOrNull(index) in IN_ORDER) speed * IN_ORDER_SHARE else speed }
            // Where all cores are of that kind it makes no difference.
            .takeIf { parts.isEmpty() || parts.size == processors } ?: speeds
    }

    /** A number of each core; null where one is missing. */
    private fun told(cpus: File, processors: Int, name: String): List<Double>? =
        (0 until processors).map { lines(File(cpus, "cpu$it/$name")).firstOrNull()?.trim()?.toDoubleOrNull() ?: return null }

    private fun lines(file: File): List<String> = try {
        if (file.canRead()) file.readLines() else emptyList()
    } catch (_: IOException) {
        emptyList()
    }
}
