package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class SustainedBenchmarkTest {
    @Test
    fun `speed falls as the device heats up, and is noted by window`() {
        var now = 0L
        var tokens = 0
        val engine = FakeEngine(50).apply { recordsCache = false }
        // Each token takes longer than the one before: 0.1 s, 0.11 s, ...
        engine.beforeRun = { now += 100_000_000L + 10_000_000L * tokens++ }
        val decoder = Decoder(fakeManifest(), engine)
        var status = 0
        val report = SustainedBenchmark(decoder, { now }) { status++ }.run(secondsPerWindow = 1, windows = 3)!!
        assertEquals(listOf(0, 1, 2), report.thermal)
        assertEquals(report.tokensPerSecond.sortedDescending(), report.tokensPerSecond)
        assertTrue("${report.kept}", report.kept < 0.8)
        assertTrue("the cache of 16 slots is never passed", engine.calls.all { it.position < 16 })
        val json = Json.parse(report.toJson(fakeManifest(), "fake", mapOf("device" to "x"))) as Json.Obj
        assertEquals(setOf("bundle", "engine", "device", "seconds_per_window", "kept", "tokens_per_second", "thermal_status"), json.fields.keys)
        assertNull(SustainedBenchmark(decoder, { now }).run(1, 1, StopSignal().apply { request() }))
        assertFails<InvalidRequestException> { SustainedBenchmark(decoder).run(0, 1) }
    }
}
