package dev.heliumedge.core

import java.security.MessageDigest

/**
 * The checksum that a manifest carries of itself: its sha256 with sixty-four zeros in the place of the checksum.
 *
 * It guards against damage, not against an author of bad will, who computes a new one.
 */
public object ManifestSeal {
    private const val KEY = "manifest_sha256"
    private const val SEALED_SINCE_MINOR = 1
    private val ZEROS = "0".repeat(64)

    // Two blanks and no more: the key of this name in the outermost object. No string of JSON holds a line break.
    private val PLACE = Regex("\n  \"$KEY\": \"([0-9a-f]{64})\"")

    /** What is wrong with the checksum of a manifest of major version 1, or null. */
    public fun problem(text: String, schemaVersion: String): String? {
        val found = PLACE.findAll(text).map { it.groupValues[1] }.toList()
        val minor = schemaVersion.substringAfter('.').toInt()
        return when {
            found.isEmpty() && minor < SEALED_SINCE_MINOR && KEY !in text -> null
            found.size != 1 -> "has no $KEY, its own checksum"
            digest(zeroed(text)) != found[0] -> "was changed: its sha256 is not the $KEY in it"
            else -> null
        }
    }

    /** The same manifest with the checksum that belongs to it. */
    public fun seal(text: String): String = zeroed(text).let { it.replaceFirst("\"$ZEROS\"", "\"${digest(it)}\"") }

    private fun zeroed(text: String): String = PLACE.replace(text, "\n  \"$KEY\": \"$ZEROS\"")

    private fun digest(text: String): String = hexadecimal(MessageDigest.getInstance("SHA-256").digest(text.toByteArray(Charsets.UTF_8)))
}

/** Bytes as lower-case hexadecimal digits. */
internal fun hexadecimal(bytes: ByteArray): String =
    bytes.joinToString("") { byte -> (byte.toInt() and 0xff).toString(16).padStart(2, '0') }
