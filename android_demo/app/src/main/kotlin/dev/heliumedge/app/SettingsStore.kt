package dev.heliumedge.app

import android.content.SharedPreferences
import dev.heliumedge.core.DeviceProbe
import dev.heliumedge.core.GenerationOverrides
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.Runtime
import dev.heliumedge.core.Settings
import kotlin.random.Random

/** The settings as the texts of their fields, kept between starts. */
class SettingsStore(private val preferences: SharedPreferences) {
    /** Text of a field. */
    fun text(key: String): String = preferences.getString(key, null) ?: DEFAULTS.getValue(key)()

    /** The bundle that was loaded last, offered at the next start; null before the first. */
    var lastBundle: String?
        get() = preferences.getString("last_bundle", null)
        set(value) = preferences.edit().putString("last_bundle", value).apply()

    /** Whether the user was asked for the notification of imports. */
    var askedForNotifications: Boolean
        get() = preferences.getString("asked_for_notifications", null) != null
        set(value) = preferences.edit().putString("asked_for_notifications", if (value) "yes" else null).apply()

    /** Keeps one field that the app itself found. */
    fun save(key: String, text: String): Unit = save(KEYS.associateWith(::text) + (key to text))

    /**
     * Keeps the texts of all fields.
     *
     * @throws InvalidRequestException One of them is out of range; nothing is kept.
     */
    fun save(texts: Map<String, String>) {
        parse(texts)
        val editor = preferences.edit()
        // Blanks of a stop string belong to it.
        texts.forEach { (key, text) -> editor.putString(key, if (key == "stop_strings") text else text.trim()) }
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
            generation = generation(texts),
            // Another one each time, or the same text would be drawn again.
            seed = if (texts.getValue("seed").isBlank()) Random.nextLong() else whole(texts, "seed").toLong(),
        )
    }

    /** An empty field leaves what the bundle says. */
    private fun generation(texts: Map<String, String>): GenerationOverrides {
        fun <T> given(key: String, read: (Map<String, String>, String) -> T): T? = if (texts.getValue(key).isBlank()) null else read(texts, key)
        return GenerationOverrides(
            temperature = given("temperature", ::number),
            topK = given("top_k", ::whole),
            topP = given("top_p", ::number),
            minP = given("min_p", ::number),
            repetitionPenalty = given("repetition_penalty", ::number),
            noRepeatNgramSize = given("no_repeat_ngram_size", ::whole),
            suppressTokens = given("suppress_tokens", ::ids),
            stopStrings = given("stop_strings", ::lines),
            maxNewTokens = given("max_new_tokens", ::whole),
            maxLength = given("max_length", ::whole),
        )
    }

    private fun ids(texts: Map<String, String>, key: String): List<Int> =
        parts(texts.getValue(key).split(' ', ',').filter(String::isNotBlank)).map { part ->
            part.toIntOrNull() ?: throw bad(key, texts, Phrase.ALLOWED_IDS)
        }

    private fun lines(texts: Map<String, String>, key: String): List<String> =
        parts(texts.getValue(key).lines().filter(String::isNotEmpty)).map { it.replace("\\n", "\n") }

    /** A lone minus is an empty list. */
    private fun parts(parts: List<String>): List<String> = if (parts == listOf("-")) emptyList() else parts

    private fun runtimeOf(text: String): Runtime = Runtime.values().firstOrNull { it.id == text }
        ?: throw InvalidRequestException(Phrase.OUT_OF_RANGE.with("runtime \"$text\""), Phrase.ALLOWED_RUNTIMES.with(Runtime.values().joinToString { it.id }))

    private fun whole(texts: Map<String, String>, key: String): Int =
        texts.getValue(key).trim().toIntOrNull()?.takeIf { it >= 0 } ?: throw bad(key, texts, Phrase.ALLOWED_WHOLE)

    private fun number(texts: Map<String, String>, key: String): Double =
        texts.getValue(key).trim().toDoubleOrNull() ?: throw bad(key, texts, Phrase.ALLOWED_NUMBERS)

    private fun bad(key: String, texts: Map<String, String>, allowed: Phrase) =
        InvalidRequestException(Phrase.OUT_OF_RANGE.with("$key \"${texts.getValue(key)}\""), allowed.with())

    companion object {
        private val DEFAULTS: Map<String, () -> String> = mapOf(
            "runtime" to { "" },
            "threads" to { DeviceProbe.suggestedThreads().toString() },
            "context" to { "1024" },
            "temperature" to { "" },
            "top_k" to { "" },
            "top_p" to { "" },
            "min_p" to { "" },
            "repetition_penalty" to { "" },
            "no_repeat_ngram_size" to { "" },
            "suppress_tokens" to { "" },
            "stop_strings" to { "" },
            "max_new_tokens" to { "" },
            "max_length" to { "" },
            "seed" to { "" },
        )

        /** Names of the fields, which are also those of their views. */
        val KEYS: Set<String> = DEFAULTS.keys
    }
}
