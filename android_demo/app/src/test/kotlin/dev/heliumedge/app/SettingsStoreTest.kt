package dev.heliumedge.app

import android.content.SharedPreferences
import dev.heliumedge.core.GenerationOverrides
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.Runtime
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.lang.reflect.Proxy

class SettingsStoreTest {
    private val kept = HashMap<String, String>()

    // Proxies, because the interfaces of Android have many members more than the stubs.
    private val editor: SharedPreferences.Editor = proxy { name, arguments ->
        if (name == "putString") kept[arguments[0] as String] = arguments[1] as String
        null
    }
    private val preferences: SharedPreferences = proxy { name, arguments ->
        if (name == "edit") editor else kept[arguments[0] as String] ?: arguments[1]
    }

    private inline fun <reified T> proxy(noinline call: (String, Array<out Any?>) -> Any?): T =
        Proxy.newProxyInstance(javaClass.classLoader, arrayOf(T::class.java)) { proxy, method, arguments ->
            val result = call(method.name, arguments.orEmpty())
            if (result == null && method.returnType.isInstance(proxy)) proxy else result
        } as T

    private val store = SettingsStore(preferences)

    @Test
    fun `the first start has sensible settings`() {
        val settings = store.load()
        assertNull(settings.runtime)
        assertEquals("the bundle's own", GenerationOverrides(), settings.generation)
        assertTrue(settings.threads >= 1)
        assertEquals(1024, settings.contextTokens)
        assertTrue("other draws each time", List(9) { store.load().seed }.toSet().size > 7)
    }

    @Test
    fun `what is saved is loaded`() {
        store.save(
            texts(
                "runtime" to "executorch ", "temperature" to "0.5", "top_k" to "7", "top_p" to "0.9", "min_p" to "0.1", "seed" to "3",
                "repetition_penalty" to "1.2", "no_repeat_ngram_size" to "3", "suppress_tokens" to "5, 17 ",
                "stop_strings" to "User: \n\\n\\n\n", "max_new_tokens" to "9", "max_length" to "100",
            ),
        )
        val settings = store.load()
        assertEquals(Runtime.EXECUTORCH, settings.runtime)
        val wanted = GenerationOverrides(0.5, 7, 0.9, 0.1, 1.2, 3, listOf(5, 17), listOf("User: ", "\n\n"), 9, 100)
        assertEquals(wanted, settings.generation)
        assertEquals(3L, settings.seed)
        store.save(texts("suppress_tokens" to "-", "stop_strings" to " - ".trim(), "temperature" to ""))
        assertEquals(wanted.copy(temperature = null, suppressTokens = emptyList(), stopStrings = emptyList()), store.load().generation)
    }

    @Test
    fun `what is out of range is refused, and nothing is kept`() {
        for (bad in listOf("runtime" to "tflite", "threads" to "-1", "threads" to "", "context" to "1.5", "temperature" to "x", "seed" to "99999999999", "max_length" to "0", "max_new_tokens" to "0", "suppress_tokens" to "5 x", "min_p" to "2")) {
            try {
                store.save(texts(bad))
                throw AssertionError("$bad was taken")
            } catch (error: HeliumException) {
                assertTrue("$error", error is InvalidRequestException && error.fix.startsWith("Allowed: "))
            }
        }
        try {
            store.save(texts("temperature" to "1", "top_p" to "2"))
            throw AssertionError("top-p 2 was taken")
        } catch (error: InvalidRequestException) {
            assertTrue("$error", "top-p" in error.what)
        }
        assertEquals(emptyMap<String, String>(), kept)
    }

    @Test
    fun `the notification of imports is asked for once`() {
        assertEquals(false, store.askedForNotifications)
        store.askedForNotifications = true
        assertEquals(true, SettingsStore(preferences).askedForNotifications)
        store.save(texts("seed" to "4"))
        assertEquals(true, store.askedForNotifications)
    }

    private fun texts(vararg changes: Pair<String, String>): Map<String, String> = SettingsStore.KEYS.associateWith(store::text) + changes
}
