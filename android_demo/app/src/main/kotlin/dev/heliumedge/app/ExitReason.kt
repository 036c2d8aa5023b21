package dev.heliumedge.app

/** How a process of the app ended: the system's number of the reason, the signal or exit code, and when, in milliseconds. */
class Exit(val reason: Int, val status: Int, val at: Long)

/** Why the process ended that was loading a bundle, as the user is told. */
enum class ExitReason(val text: Int) {
    MEMORY(R.string.exit_memory),
    KILLED(R.string.exit_killed),
    CRASH(R.string.exit_crash),
    HUNG(R.string.exit_hung),
    GREEDY(R.string.exit_greedy),
    USER(R.string.exit_user),
    CHANGED(R.string.exit_changed),
    UNKNOWN(R.string.exit_unknown),
    ;

    companion object {
        /** Clocks of files may be this coarse. */
        private const val COARSE_MILLIS = 2000L
        private const val KILL = 9

        // Reasons of ApplicationExitInfo, which Android 9 and 10 have no class of.
        private const val SIGNALED = 2
        private const val LOW_MEMORY = 3
        private const val JAVA_CRASH = 4
        private const val NATIVE_CRASH = 5
        private const val ANR = 6
        private const val EXCESSIVE_USE = 9
        private const val USER_REQUESTED = 10
        private const val USER_STOPPED = 11
        private val OF_CHANGES = setOf(8, 15, 16) // a permission, a component, an update

        /**
         * The reason of the exit that ended a load: the first one since it began. Later ones, as of an app that was opened
         * and swiped away, say nothing of the load.
         *
         * @param began When the load began, in milliseconds.
         */
        fun of(exits: List<Exit>, began: Long): ExitReason {
            val exit = exits.filter { it.at >= began - COARSE_MILLIS }.minByOrNull { it.at } ?: return UNKNOWN
            return when (exit.reason) {
                LOW_MEMORY -> MEMORY
                SIGNALED -> if (exit.status == KILL) KILLED else CRASH
                JAVA_CRASH, NATIVE_CRASH -> CRASH
                ANR -> HUNG
                EXCESSIVE_USE -> GREEDY
                USER_REQUESTED, USER_STOPPED -> USER
                in OF_CHANGES -> CHANGED
                else -> UNKNOWN
            }
        }
    }
}
