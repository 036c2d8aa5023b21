package dev.heliumedge.app

/** The seeds that answers of a conversation are drawn from: the chosen one, and one more for each answer, as ChatSession does. */
class ChatSeeds {
    private var bundle: String? = null
    private var answers = 0L

    /** A bundle was loaded: another one than that of the conversation begins anew. */
    fun loaded(name: String) {
        if (name != bundle) answers = 0
    }

    /** The seed of the answer that begins now. */
    fun next(name: String, chosen: Long): Long {
        bundle = name
        return chosen + answers++
    }
}
