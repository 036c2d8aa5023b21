package dev.heliumedge.app

import android.content.Context
import dev.heliumedge.core.CacheFullException
import dev.heliumedge.core.ChatLabels
import dev.heliumedge.core.DamagedFileException
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.MemoryEstimate
import dev.heliumedge.core.MissingFileException
import dev.heliumedge.core.NotABundleException
import dev.heliumedge.core.NotEnoughMemoryException
import dev.heliumedge.core.Said
import dev.heliumedge.core.StopReason
import dev.heliumedge.core.StorageException
import dev.heliumedge.core.StoredItem
import dev.heliumedge.core.StoredKind
import dev.heliumedge.core.UnexpectedException
import dev.heliumedge.core.WrongRuntimeException

/** What the core finds, in the words of the user's language; what only helps to find a fault stays as the core has it. */
class Words(private val context: Context, private val residentBytes: () -> Long) {
    /** An error, what to do, and for one that nobody foresaw a report to copy. */
    fun error(error: HeliumException): String {
        val report = (error as? UnexpectedException)?.let { "\n\n${it.report}" }.orEmpty()
        return "${headline(error)}\n\n${say(error.said)}.\n\n${say(error.remedy)}$report"
    }

    /** An error as it is read aloud. */
    fun spoken(error: HeliumException): String = "${headline(error)}. ${say(error.said)}. ${say(error.remedy)}"

    /** A phrase in the user's language, or a detail as it is. */
    fun say(said: Said): String = said.phrase?.let { context.getString(textOf(it), *said.values.toTypedArray()) } ?: said.text

    /** What kind of error it is, in one line. */
    fun headline(error: HeliumException): String = context.getString(kind(error))

    private fun kind(error: HeliumException): Int = when (error) {
        is NotEnoughMemoryException -> R.string.error_memory
        is StorageException -> R.string.error_storage
        is DamagedFileException, is MissingFileException, is NotABundleException -> R.string.error_files
        is WrongRuntimeException, is EngineException -> R.string.error_runtime
        is CacheFullException -> R.string.error_full
        is InvalidRequestException -> R.string.error_request
        is UnexpectedException -> R.string.error_unexpected
        else -> R.string.error_bundle
    }

    /** The figures of a text. */
    fun stats(stats: GenerationStats): String {
        val line = context.getString(
            R.string.figures, stats.firstTokenNanos / 1e9, stats.prefillTokensPerSecond, stats.decodeTokensPerSecond, stats.newTokens,
            MemoryEstimate.megabytes(residentBytes()),
        )
        return "$line ${ending(stats)}".trimEnd()
    }

    /** Why a text ended; empty while it goes on. */
    fun ending(stats: GenerationStats): String = stats.stopReason?.let { context.getString(reason(it)) }.orEmpty()

    private fun reason(reason: StopReason): Int = when (reason) {
        StopReason.EOS, StopReason.STOP_STRING -> R.string.end_model
        StopReason.LENGTH -> R.string.end_length
        StopReason.CACHE_FULL -> R.string.end_full
        StopReason.STOPPED -> R.string.end_stopped
    }

    /** What a bundle takes. */
    fun estimate(estimate: MemoryEstimate): String = context.getString(
        R.string.estimate, MemoryEstimate.megabytes(estimate.resident), estimate.contextTokens, MemoryEstimate.megabytes(estimate.mapped),
    )

    /** Something stored, with its size. */
    fun stored(stored: StoredItem): String {
        val kind = when (stored.kind) {
            StoredKind.BUNDLE -> R.string.stored_bundle
            StoredKind.ABANDONED_IMPORT -> R.string.stored_unfinished
            StoredKind.KEPT_CACHE -> R.string.stored_cache
            StoredKind.REPORT -> R.string.stored_report
        }
        return context.getString(kind, stored.name, MemoryEstimate.megabytes(stored.bytes))
    }

    /** That the process ended while it loaded a bundle, and why. */
    fun suspect(bundle: String, reason: ExitReason): String = "${context.getString(R.string.suspect, bundle)} ${context.getString(reason.text)}"

    /** Words of the screen around a conversation. They hold no screen: a conversation outlives many. */
    fun labels() = ChatLabels(
        context.getString(R.string.speaker_system), context.getString(R.string.speaker_user), context.getString(R.string.speaker_model),
    ) { context.getString(R.string.forgotten, it) }

    /** Tells one language from another. */
    fun language(): String = "${context.getString(R.string.speaker_user)} ${context.getString(R.string.speaker_model)}"
}
