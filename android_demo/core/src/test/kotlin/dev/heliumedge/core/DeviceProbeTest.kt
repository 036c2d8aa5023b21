package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

/** Phones by what their kernels tell of the cores: capacities where they tell them, else frequencies in MHz and parts. */
class DeviceProbeTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private fun phone(name: String, files: Map<String, List<Int>>, parts: List<String> = emptyList()): Pair<File, File> {
        val cpus = temporary.newFolder(name)
        for ((file, values) in files) {
            values.forEachIndexed { index, value ->
                val target = File(cpus, "cpu$index/$file")
                target.parentFile.mkdirs()
                target.writeText("$value\n")
            }
        }
        val cpuInfo = File(cpus, "cpuinfo")
        cpuInfo.writeText(parts.withIndex().joinToString("") { (index, part) -> "processor\t: $index\nCPU part\t: $part\n\n" })
        return cpus to cpuInfo
    }

    private fun threads(name: String, capacities: List<Int>): Int {
        val (cpus, info) = phone(name, mapOf("cpu_capacity" to capacities))
        return DeviceProbe.suggestedThreads(cpus, capacities.size, info)
    }

    private fun threads(name: String, megahertz: List<Int>, parts: List<String>): Int {
        val (cpus, info) = phone(name, mapOf("cpufreq/cpuinfo_max_freq" to megahertz.map { it * 1000 }), parts)
        return DeviceProbe.suggestedThreads(cpus, megahertz.size, info)
    }

    @Test
    fun `threads of eight phones`() {
        assertEquals("Snapdragon 8 Elite: all cores are big", 6, threads("elite", List(6) { 792 } + List(2) { 1024 }))
        assertEquals("Snapdragon 8 Gen 3", 6, threads("gen3", List(2) { 250 } + List(3) { 780 } + List(2) { 730 } + 1024))
        assertEquals("Dimensity 9400", 4, threads("d9400", List(4) { 470 } + List(3) { 830 } + 1024))
        assertEquals("Tensor G3", 5, threads("g3", List(4) { 220 } + List(4) { 640 } + 1024))
        assertEquals("Exynos 2400", 6, threads("e2400", List(4) { 260 } + List(3) { 690 } + List(2) { 760 } + 1024))
        assertEquals("Helio G99, which tells frequencies alone", 2, threads("g99", List(6) { 2000 } + List(2) { 2200 }, List(6) { "0xd05" } + List(2) { "0xd0b" }))
        assertEquals("Snapdragon 695", 2, threads("695", List(6) { 1804 } + List(2) { 2208 }, List(6) { "0xd05" } + List(2) { "0xd41" }))
        assertEquals("Snapdragon 450: eight little cores", 6, threads("450", List(8) { 1804 }, List(8) { "0xd03" }))
    }

    @Test
    fun `what is told in part, or not at all`() {
        assertEquals("frequencies of 8 Elite", 6, threads("elite-mhz", List(6) { 3530 } + List(2) { 4320 }, emptyList()))
        assertEquals("capacities of four cores only", 4, phone("part", mapOf("cpu_capacity" to listOf(1, 1, 1, 9))).let { DeviceProbe.suggestedThreads(it.first, 8, it.second) })
        assertEquals("nothing", 4, DeviceProbe.suggestedThreads(File("none"), 8, File("none")))
        assertEquals("one core", 1, DeviceProbe.suggestedThreads(File("none"), 1, File("none")))
        assertEquals(listOf(2, 3, 4, 6, 8), DeviceProbe.threadsToTry(8))
        assertEquals(listOf(1), DeviceProbe.threadsToTry(1))
    }

    @Test
    fun `memory is read from the system's file`() {
        assertTrue(DeviceProbe.residentBytes() > 1_000_000)
        assertEquals(0, DeviceProbe.residentBytes(File("none")))
    }
}
