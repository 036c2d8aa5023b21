package dev.heliumedge.app

import dev.heliumedge.core.MissingFileException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.RemoteBenchmark
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class RemoteAnswerTest {
    @Test
    fun `what was measured is the document`() = assertEquals("{}", remoteAnswer { "{}" })

    @Test
    fun `whatever goes wrong is a document with an error`() {
        val failures = listOf(
            MissingFileException(Phrase.NO_FOLDER.with("bundles/tiny")) to "bundles/tiny",
            OutOfMemoryError("heap") to "heap",
            UnsatisfiedLinkError("libonnxruntime.so") to "libonnxruntime.so",
            StackOverflowError() to "StackOverflowError",
            SecurityException("not yours") to "not yours",
        )
        for ((failure, words) in failures) {
            val document = remoteAnswer { throw failure }
            assertTrue(document, RemoteBenchmark.SCHEMA in document && "\"error\"" in document && "\"hint\"" in document && words in document)
        }
        assertTrue("stopped", "stopped on the phone" in remoteAnswer { null })
    }
}
