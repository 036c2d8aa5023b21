package dev.heliumedge.core

/** Who speaks. */
public enum class ChatRole(internal val id: String) { SYSTEM("system"), USER("user"), ASSISTANT("assistant") }

/** A turn of a conversation. */
public data class ChatMessage(val role: ChatRole, val content: String)

/** A piece of text, and whether it is the template's [own], in which special tokens are read as such. */
public data class ChatSpan(val text: String, val own: Boolean)

/** White space that is taken from a turn's text; [END_ALL] takes it from the end of everything so far. */
public enum class Trim(internal val id: String) { NONE("none"), BOTH("both"), START("start"), END("end"), END_ALL("end_all") }

/** How the turn of a role reads. */
public data class RoleForm(val before: String, val after: String, val trim: Trim)

/**
 * The chat template as data: what stands before and after each turn. docs/bundle.md explains it.
 *
 * @property prefix In front of every conversation.
 * @property system The system message; null where there can be none.
 * @property withoutSystem In place of a system message where there is none.
 * @property skipEmptySystem Whether a system message without text counts as none.
 * @property user A turn of the user.
 * @property firstUser The first one where there is no system message; null reads as [user].
 * @property userAfterSystem The first one behind a system message; null reads as [user].
 * @property assistant An answer.
 * @property generationPrompt Behind the last turn of the user, where the answer begins.
 */
public data class ChatForm(
    val prefix: String,
    val system: RoleForm?,
    val withoutSystem: String,
    val skipEmptySystem: Boolean,
    val user: RoleForm,
    val firstUser: RoleForm?,
    val userAfterSystem: RoleForm?,
    val assistant: RoleForm,
    val generationPrompt: String,
) {
    /**
     * The text of a conversation that awaits an answer, in pieces.
     *
     * @throws InvalidRequestException No such conversation, or a system message where there can be none.
     */
    public fun spans(messages: List<ChatMessage>): List<ChatSpan> {
        check(messages)
        val out = ArrayList<ChatSpan>()
        out.add(ChatSpan(prefix, true))
        val first = messages.first()
        val turns = if (first.role == ChatRole.SYSTEM) messages.drop(1) else messages
        val hasSystem = first.role == ChatRole.SYSTEM && !(skipEmptySystem && first.content.isEmpty())
        if (hasSystem) system?.let { add(out, it, first.content) } else out.add(ChatSpan(withoutSystem, true))
        val opening = (if (hasSystem) userAfterSystem else firstUser) ?: user
        turns.forEachIndexed { index, message ->
            val role = if (index == 0) opening else if (message.role == ChatRole.USER) user else assistant
            add(out, role, message.content)
        }
        out.add(ChatSpan(generationPrompt, true))
        return out.filter { it.text.isNotEmpty() }
    }

    /** Everything that the template itself writes. */
    internal fun fixedTexts(): List<String> {
        val roles = listOfNotNull(system, user, firstUser, userAfterSystem, assistant)
        return listOf(prefix, withoutSystem, generationPrompt) + roles.flatMap { listOf(it.before, it.after) }
    }

    private fun check(messages: List<ChatMessage>) {
        val turns = if (messages.firstOrNull()?.role == ChatRole.SYSTEM) messages.drop(1) else messages
        val inTurn = turns.withIndex().all { (index, message) ->
            message.role == if (index % 2 == 0) ChatRole.USER else ChatRole.ASSISTANT
        }
        if (turns.size % 2 != 1 || !inTurn) {
            throw InvalidRequestException(
                "a conversation is a system message or none, then user and assistant in turn, the user's last",
                "Begin a new conversation.",
            )
        }
        if (turns.size < messages.size && system == null) {
            throw InvalidRequestException(Phrase.NO_SYSTEM_MESSAGE.with(), Phrase.LEAVE_OUT.with())
        }
    }

    private fun add(out: MutableList<ChatSpan>, role: RoleForm, content: String) {
        var text = content
        if (role.trim == Trim.BOTH || role.trim == Trim.START) text = text.trimStart(::isBlank)
        if (role.trim != Trim.NONE && role.trim != Trim.START) text = text.trimEnd(::isBlank)
        out.add(ChatSpan(role.before, true))
        out.add(ChatSpan(text, false))
        while (role.trim == Trim.END_ALL && out.isNotEmpty()) {
            val last = out.removeAt(out.size - 1)
            val kept = last.text.trimEnd(::isBlank)
            if (kept.isNotEmpty()) {
                out.add(ChatSpan(kept, last.own))
                break
            }
        }
        out.add(ChatSpan(role.after, true))
    }
}

/** The white space of Python's `str.strip`, which is what templates trim. */
private fun isBlank(character: Char): Boolean = when (character.code) {
    in 0x09..0x0D, in 0x1C..0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
    else -> false
}
