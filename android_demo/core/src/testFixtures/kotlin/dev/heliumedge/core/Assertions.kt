package dev.heliumedge.core

import org.junit.Assert.assertTrue

/** What [block] throws, which must be a [T]; every named error says what to do in a sentence of its own. */
inline fun <reified T : Throwable> assertFails(block: () -> Unit): T {
    try {
        block()
    } catch (error: Throwable) {
        if (error !is T) throw AssertionError("${T::class.java.simpleName} expected, not $error", error)
        if (error is HeliumException) assertTrue("no remedy: $error", error.fix.length > 10 && error.message!!.endsWith(error.fix))
        return error
    }
    throw AssertionError("${T::class.java.simpleName} expected, nothing was thrown")
}
