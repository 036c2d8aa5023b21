package dev.heliumedge.app

import dev.heliumedge.core.Phrase
import dev.heliumedge.core.StorageException
import java.io.File
import java.io.IOException
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

/** Reports of answers, each a text file in [folder]. */
class Reports(private val folder: File, private val now: () -> Long = System::currentTimeMillis) {
    /**
     * Keeps a report, whole or not at all.
     *
     * @throws StorageException It cannot be written.
     */
    fun keep(text: String): File {
        val stamp = SimpleDateFormat("yyyyMMdd-HHmmss-SSS", Locale.ROOT).apply { timeZone = TimeZone.getTimeZone("UTC") }.format(Date(now()))
        val file = File(folder, "report-$stamp.txt")
        try {
            folder.mkdirs()
            val part = File(folder, "${file.name}.part")
            part.writeText(text)
            if (!part.renameTo(file)) throw IOException("cannot rename")
        } catch (error: IOException) {
            throw StorageException(Phrase.CANNOT_WRITE.with(file.path, error.message.orEmpty()), error)
        }
        return file
    }

    companion object {
        /** What may be wrong with an answer, as reports name it whatever the language of the screen. */
        val REASONS: Map<String, Int> = linkedMapOf(
            "offensive" to R.string.reason_offensive,
            "sexual" to R.string.reason_sexual,
            "dangerous" to R.string.reason_dangerous,
            "private" to R.string.reason_private,
            "wrong" to R.string.reason_wrong,
            "other" to R.string.reason_other,
        )

        /** Reason of a report: a field of its form. */
        const val REASON: String = "reason"

        /** What the user adds: a field of its form. */
        const val NOTE: String = "note"

        /** The report: what is wrong, how the text was made, and the text. */
        fun text(reason: String, note: String, answer: Answer?, output: String): String {
            val lines = arrayListOf("reason: $reason")
            if (note.isNotBlank()) lines.add("note: ${note.trim()}")
            if (answer != null) {
                lines.add("bundle: ${answer.bundle}, manifest ${answer.manifest}")
                lines.add("runtime: ${answer.engine}")
                lines.add("seed: ${answer.settings.seed}")
                lines.add("settings: ${answer.settings}")
                lines.add("in force: ${answer.inForce}")
                lines.add("\nprompt:\n${answer.prompt}")
            }
            lines.add("\non the screen:\n$output")
            return lines.joinToString("\n")
        }
    }
}
