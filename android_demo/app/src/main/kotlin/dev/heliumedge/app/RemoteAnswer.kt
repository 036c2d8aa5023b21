package dev.heliumedge.app

import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.RemoteBenchmark
import dev.heliumedge.core.named

/** The document of a measurement that a computer waits for: whatever goes wrong is one as well. */
fun remoteAnswer(measure: () -> String?): String = try {
    measure() ?: RemoteBenchmark.failure(
        InvalidRequestException("the benchmark was stopped on the phone", "Leave the app in front, with the screen on."),
    )
} catch (error: Throwable) {
    // Errors too, as of memory: the computer would wait for ever.
    RemoteBenchmark.failure(named(error))
}
