package dev.heliumedge.core

/**
 * Words of the screen around a conversation.
 *
 * @property forgotten Says that so many of the oldest messages are no longer seen by the model.
 */
public class ChatLabels(
    public val system: String,
    public val user: String,
    public val model: String,
    public val forgotten: (Int) -> String,
)

/** Gets what a screen shows, in the thread that works. */
public interface ChatListener {
    /** The whole conversation as text; what comes next is put behind it. */
    public fun onTranscript(text: String)

    /** A piece of the answer. */
    public fun onPiece(piece: String)
}

/**
 * How an answer went.
 *
 * @property remembered Whether it is part of the conversation; one that was stopped before it began is not, nor is its
 *   question.
 * @property forgotten Oldest messages that were left out for it, because the conversation did not fit any more.
 */
public data class ChatTurn(val remembered: Boolean, val forgotten: Int)

/**
 * A conversation with a bundle: what a chat screen does, without its views.
 *
 * The cache is kept from turn to turn, and the system message and the last turns stay when it is full. An answer that is
 * stopped is remembered as far as it came. Text of the user never becomes a special token. One thread works at a time;
 * what there is to read may be read from another one.
 *
 * @param before A conversation to go on with, as when the same bundle was loaded again.
 * @throws InvalidRequestException The bundle has no chat template, or one that only Jinja can render; it says which.
 */
public class ChatSession(private val bundle: LoadedBundle, private val labels: ChatLabels, before: ChatSession? = null) {
    private class State(val system: String, val turns: List<ChatMessage>, val forgotten: Int, val editing: Int? = null) {
        /** Turns that the next message follows. */
        val kept: List<ChatMessage> get() = turns.take(editing ?: turns.size)
    }

    @Volatile
    private var state: State = before?.state ?: State("", emptyList(), 0)

    /** Answers so far; each draws other random numbers. Touched by the thread that works. */
    private var answers: Long = before?.answers ?: 0L

    init {
        bundle.checkConversations()
    }

    /** The system message; empty for none. */
    public val system: String get() = state.system

    /** All turns, those included that the model does not see any more. */
    public val turns: List<ChatMessage> get() = state.turns

    /** How many of the first [turns] the model does not see any more. */
    public val forgotten: Int get() = state.forgotten

    /** Whether there is an answer that could be given again. */
    public val canRegenerate: Boolean get() = state.turns.isNotEmpty() && state.editing == null

    /** Places in [turns] of the messages that [startEdit] takes. */
    public val editable: List<Int> get() = state.turns.indices.filter { state.turns[it].role == ChatRole.USER }

    /** The place in [turns] of the message that is being changed; null where none is. */
    public val editing: Int? get() = state.editing

    /** The seed that the next answer draws from; for the thread that works. */
    public fun nextSeed(settings: Settings): Long = settings.seed + answers

    /** Starts anew, with this system message or, where it is empty, with none. */
    public fun reset(system: String = "") {
        state = State(system, emptyList(), 0)
    }

    /**
     * Adds a turn of the user and answers it; in place of the message that is being changed, where one is.
     *
     * @throws InvalidRequestException There is no text, it is no valid Unicode, or the template takes no system message.
     * @throws CacheFullException Not even this turn fits.
     * @throws HeliumException What [Generation.run] throws; what came of the answer until then is remembered.
     */
    public fun say(text: String, settings: Settings, stop: StopSignal, stats: GenerationStats, listener: ChatListener): ChatTurn {
        if (text.isBlank()) throw InvalidRequestException(Phrase.NO_TEXT.with(), Phrase.WRITE_FIRST.with())
        return answer(state.kept + ChatMessage(ChatRole.USER, text), settings, stop, stats, listener)
    }

    /**
     * Answers the last turn of the user again; draws are others, a greedy answer is the same. Should it be stopped before
     * it begins, the answer before stays.
     *
     * @throws InvalidRequestException There is no answer yet.
     * @throws HeliumException What [say] throws.
     */
    public fun regenerate(settings: Settings, stop: StopSignal, stats: GenerationStats, listener: ChatListener): ChatTurn {
        if (!canRegenerate) throw InvalidRequestException(Phrase.NO_ANSWER.with(), Phrase.WRITE_FIRST.with())
        return answer(state.turns.dropLast(1), settings, stop, stats, listener)
    }

    /**
     * Takes the conversation back to a message of the user, which the next [say] takes the place of: the cache goes back
     * to where the message began. What stood there and behind it goes when the changed message has an answer; until then
     * [cancelEdit] brings it back.
     *
     * @param turn One of [editable].
     * @return What the message says, to be changed.
     * @throws InvalidRequestException There is no message of the user at that place.
     */
    public fun startEdit(turn: Int): String {
        val before = state
        if (turn !in editable) throw InvalidRequestException(Phrase.NO_MESSAGE.with(), Phrase.WRITE_FIRST.with())
        state = State(before.system, before.turns, before.forgotten, turn)
        return before.turns[turn].content
    }

    /** Leaves the message that is being changed as it was, and all that follows. */
    public fun cancelEdit() {
        state = State(state.system, state.turns, state.forgotten)
    }

    /** The conversation as text, up to a message that is being changed. */
    public fun transcript(): String = text(state.kept, state.forgotten)

    private fun answer(asked: List<ChatMessage>, settings: Settings, stop: StopSignal, stats: GenerationStats, listener: ChatListener): ChatTurn {
        val before = state
        val system = if (before.system.isEmpty()) emptyList() else listOf(ChatMessage(ChatRole.SYSTEM, before.system))
        // Back at a message that the model no longer sees there is room again for those before it.
        val unseen = if (asked.lastIndex < before.forgotten) 0 else before.forgotten
        val answer = StringBuilder()
        var told = false
        val chosen = settings.copy(seed = nextSeed(settings))
        answers++
        listener.onTranscript(text(asked, unseen) + opening())
        try {
            bundle.answer(system + asked.drop(unseen), chosen, stop, stats) { _, piece ->
                // Known only now; the screen says it before the answer that does without them.
                if (!told && stats.droppedMessages > 0) {
                    told = true
                    listener.onTranscript(text(asked, unseen + stats.droppedMessages) + opening())
                }
                answer.append(piece)
                if (piece.isNotEmpty()) listener.onPiece(piece)
            }
        } finally {
            // Without a token and without an end of its own there is nothing to remember.
            val ended = stats.stopReason != null && stats.stopReason != StopReason.STOPPED
            if (stats.newTokens > 0 || ended) {
                val forgotten = unseen + stats.droppedMessages
                state = State(before.system, asked + ChatMessage(ChatRole.ASSISTANT, answer.toString()), forgotten)
            }
            listener.onTranscript(transcript())
        }
        return ChatTurn(state !== before, if (state === before) 0 else stats.droppedMessages)
    }

    private fun opening() = "\n\n${labels.model}: "

    private fun text(turns: List<ChatMessage>, forgotten: Int): String {
        val lines = ArrayList<String>()
        if (state.system.isNotEmpty()) lines.add("${labels.system}: ${state.system}")
        turns.forEachIndexed { index, message ->
            if (index == forgotten && forgotten > 0) lines.add(labels.forgotten(forgotten))
            lines.add("${if (message.role == ChatRole.USER) labels.user else labels.model}: ${message.content}")
        }
        return lines.joinToString("\n\n")
    }
}
