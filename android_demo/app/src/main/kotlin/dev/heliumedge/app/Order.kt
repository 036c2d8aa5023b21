package dev.heliumedge.app

import dev.heliumedge.core.RemoteBenchmark

/** What an intent asks for. */
sealed class Order {
    /** The screen alone. */
    object Look : Order()

    /** A bundle by its name, in place of what is loaded. */
    class Open(val bundle: String) : Order()

    /** Minutes of full load, whose document has the name [id]. */
    class Measure(val bundle: String, val id: String) : Order()

    companion object {
        /** Who may start it has the permission DUMP, as the shell and no other app: the manifest says so. */
        const val ENTRANCE: String = "dev.heliumedge.app.BenchmarkOrders"

        /** The extra with the name of a bundle. */
        const val BUNDLE: String = "bundle"

        /** The extra with the name of a benchmark's document. */
        const val BENCHMARK: String = "benchmark"

        /**
         * @param entrance The class that was started. Any app may start the screen itself, and then gets no more: a bundle
         *   would take the place of the user's, and of their conversation.
         * @param again Whether the list of recent apps brings an old intent back, which was carried out long ago.
         */
        fun of(entrance: String?, again: Boolean, extra: (String) -> String?): Order {
            if (entrance != ENTRANCE || again) return Look
            val bundle = extra(BUNDLE) ?: return Look
            val id = extra(BENCHMARK) ?: return Open(bundle)
            return if (RemoteBenchmark.isId(id)) Measure(bundle, id) else Look
        }
    }
}
