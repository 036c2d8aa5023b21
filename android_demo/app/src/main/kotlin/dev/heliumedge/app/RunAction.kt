package dev.heliumedge.app

/** What the large button does. It is what the button says: work that ends just before a tap must not make "Stop" a start. */
enum class RunAction(val text: Int) {
    STOP(R.string.stop),
    SEND(R.string.send),
    CLASSIFY(R.string.classify),
    GENERATE(R.string.generate),
    ;

    companion object {
        /** What it is to be now. */
        fun of(busy: Boolean, chats: Boolean, classifies: Boolean): RunAction = when {
            busy -> STOP
            chats -> SEND
            classifies -> CLASSIFY
            else -> GENERATE
        }
    }
}
