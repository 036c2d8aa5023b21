package dev.heliumedge.app

import android.content.SharedPreferences
import dev.heliumedge.core.DeviceProbe
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.Runtime
import dev.heliumedge.core.SamplingOptions
import dev.heliumedge.core.Settings

/** The settings as the texts of their fields, kept between starts. */
class SettingsStore(private val preferences: SharedPreferences) {
    /** Text of a field. */
    fun text(key: String): String = preferences.getString(key, null) ?: DEFAULTS.getValue(key)()

    /**
     * Keeps the texts of all fields.
     *
     * @throws InvalidRequestException One of them is out of range; nothing is kept.
     */
    fun save(texts: Map<String, String>) {
        parse(texts)
        val editor = preferences.edit()
        texts.forEach { (key, text) -> editor.putString(key, text.trim()) }
        editor.apply()
    }

    /** The settings. */
    fun load(): Settings = parse(KEYS.associateWith(::text))

    private fun parse(texts: Map<String, String>): Settings {
        val runtime = texts.getValue("runtime").trim()
        return Settings(
            runtime = if (runtime.isEmpty()) null else runtimeOf(runtime),
            threads = whole(texts, "threads"),
            contextTokens = whole(texts, "context"),
            sampling = sampling(texts),
            maxNewTokens = whole(texts, "max_new_tokens"),
            seed = whole(texts, "seed").toLong(),
        )
    }

    private fun sampling(texts: Map<String, String>): SamplingOptions? {
        if (texts.getValue("temperature").isBlank()) return null
        return SamplingOptions(number(texts, "temperature"), whole(texts, "top_k"), number(texts, "top_p"))
    }

    private fun runtimeOf(text: String): Runtime = Runtime.values().firstOrNull { it.id == text }
        ?: throw InvalidRequestException("runtime \"$text\" is not known", "Allowed: ${Runtime.values().joinToString { it.id }}, or nothing.")

    private fun whole(texts: Map<String, String>, key: String): Int =
        texts.getValue(key).trim().toIntOrNull()?.takeIf { it >= 0 } ?: throw bad(key, texts, "whole numbers from 0 on")

    private fun number(texts: Map<String, String>, key: String): Double =
        texts.getValue(key).trim().toDoubleOrNull() ?: throw bad(key, texts, "numbers")

    private fun bad(key: String, texts: Map<String, String>, allowed: String) =
        InvalidRequestException("$key \"${texts.getValue(key)}\" is out of range", "Allowed: $allowed.")

    companion object {
        private val DEFAULTS: Map<String, () -> String> = mapOf(
            "runtime" to { "" },
            "threads" to { DeviceProbe.suggestedThreads().toString() },
            "context" to { "1024" },
            "temperature" to { "" },
            "top_k" to { "50" },
            "top_p" to { "0.95" },
            "max_new_tokens" to { "0" },
            "seed" to { "0" },
        )

        /** Names of the fields, which are also those of their views. */
        val KEYS: Set<String> = DEFAULTS.keys
    }
}
