package dev.heliumedge.app

import android.content.SharedPreferences
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.Runtime
import dev.heliumedge.core.SamplingOptions
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
        assertNull("the bundle's own", settings.sampling)
        assertTrue(settings.threads >= 1)
        assertEquals(1024, settings.contextTokens)
    }

    @Test
    fun `what is saved is loaded`() {
        store.save(texts("runtime" to "executorch ", "temperature" to "0.5", "top_k" to "7", "top_p" to "0.9", "seed" to "3"))
        val settings = store.load()
        assertEquals(Runtime.EXECUTORCH, settings.runtime)
        assertEquals(SamplingOptions(0.5, 7, 0.9), settings.sampling)
        assertEquals(3L, settings.seed)
    }

    @Test
    fun `what is out of range is refused, and nothing is kept`() {
        for (bad in listOf("runtime" to "tflite", "threads" to "-1", "threads" to "", "context" to "1.5", "temperature" to "x", "seed" to "99999999999")) {
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

    private fun texts(vararg changes: Pair<String, String>): Map<String, String> = SettingsStore.KEYS.associateWith(store::text) + changes
}
