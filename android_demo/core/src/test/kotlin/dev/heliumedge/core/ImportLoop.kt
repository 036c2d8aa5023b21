package dev.heliumedge.core

import java.io.File

/** Imports bundles in turn, without end: to be killed. */
fun main(arguments: Array<String>) {
    val importer = BundleImporter(BundleStore(File(arguments[0])))
    var round = 0
    while (true) {
        val from = File(arguments[1 + round % (arguments.size - 1)])
        if (round++ == 1) print(".").also { System.out.flush() }
        importer.import({ path -> File(from, path).inputStream() }, { Long.MAX_VALUE }) { _, _ -> true }
    }
}
