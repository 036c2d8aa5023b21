package dev.heliumedge.core

/**
 * What a device keeps up: speed of decoding over minutes, in equal windows, with how hot the device says it is.
 *
 * @property secondsPerWindow Length of a window.
 * @property tokensPerSecond Speed in each window.
 * @property thermal Thermal status at the end of each window; null where the system does not tell.
 */
public class SustainedReport(public val secondsPerWindow: Int, public val tokensPerSecond: List<Double>, public val thermal: List<Int?>) {
    /** Speed of the last window against that of the fastest; 1 where nothing is lost to heat. */
    public val kept: Double get() = if (tokensPerSecond.isEmpty()) 0.0 else tokensPerSecond.last() / tokensPerSecond.max()

    /** A document to copy about [loaded]: the facts of the device come from the caller, the threads from what is loaded. */
    public fun toJson(loaded: LoadedBundle, facts: Map<String, Any?>): String = toJson(loaded.manifest, loaded.engineName, loaded.withThreads(facts))

    /** The same for a decoder that no [BundleLoader] made: all facts come from the caller. */
    public fun toJson(manifest: Manifest, engine: String, facts: Map<String, Any?>): String = JsonWriter().obj {
        field("bundle", manifest.name)
        field("engine", engine)
        facts.forEach { (key, value) -> field(key, value) }
        field("seconds_per_window", secondsPerWindow)
        field("kept", kept)
        array("tokens_per_second") { tokensPerSecond.forEach { field(null, it) } }
        array("thermal_status") { thermal.forEach { field(null, it) } }
    }.toString()
}

/** Decodes for minutes on end, always at the same depths of the context, and notes the speed of each window. */
public class SustainedBenchmark(private val decoder: Decoder, private val clock: Clock = Clock.System, private val thermal: () -> Int? = { null }) {
    /**
     * @param windows How many windows; a window ends with the token that passes its length.
     * @param progress Called with the windows that are done.
     * @return Null when [stop] ended it.
     */
    public fun run(secondsPerWindow: Int = 10, windows: Int = 30, stop: StopSignal = StopSignal(), progress: (Int) -> Unit = {}): SustainedReport? {
        if (secondsPerWindow < 1 || windows < 1) {
            throw InvalidRequestException("$windows windows of $secondsPerWindow s cannot be measured", "Allowed: 1 and above.")
        }
        val speeds = ArrayList<Double>()
        val heat = ArrayList<Int?>()
        // A text of a fixed length again and again, or a later window would have the longer contexts.
        val length = minOf(128, decoder.cacheLen - 1)
        for (window in 1..windows) {
            val start = clock.nanos()
            var tokens = 0
            var now = start
            while (now - start < secondsPerWindow * 1_000_000_000L) {
                if (decoder.position > length) decoder.rewind()
                decoder.decode(1 + tokens % (decoder.vocabSize - 1), stop) ?: return null
                tokens++
                now = clock.nanos()
            }
            speeds.add(tokens * 1e9 / (now - start))
            heat.add(thermal())
            progress(window)
        }
        decoder.rewind()
        return SustainedReport(secondsPerWindow, speeds, heat)
    }
}
