package dev.heliumedge.core

private const val NONE = -1
private const val LOAD = 2

/**
 * The pieces of a vocabulary by their characters: one open-addressed table of edges (node, character) -> node.
 * Arrays of primitives, because 250,000 small objects cost a phone more time and memory than the table.
 */
internal class PieceTrie(pieces: Array<String>) {
    private val mask: Int
    private val edges: LongArray
    private val targets: IntArray
    private var nodes = 1

    /** Piece that ends at a node, or -1; of equal pieces the last one. */
    private val ids: IntArray

    init {
        val characters = pieces.sumOf { it.length }
        var capacity = 16
        while (capacity < LOAD * characters) capacity *= 2
        mask = capacity - 1
        edges = LongArray(capacity) { NONE.toLong() }
        targets = IntArray(capacity)
        val ends = IntArray(characters + 1) { NONE }
        pieces.forEachIndexed { id, piece ->
            var node = 0
            for (c in piece) node = childOrNew(node, c)
            if (node != 0) ends[node] = id
        }
        ids = ends.copyOf(nodes)
    }

    /** The node after [node] along [c], or -1. The root is 0. */
    fun child(node: Int, c: Char): Int {
        val edge = edge(node, c)
        var slot = slot(edge)
        while (edges[slot] != NONE.toLong()) {
            if (edges[slot] == edge) return targets[slot]
            slot = (slot + 1) and mask
        }
        return NONE
    }

    /** The piece that ends at a node, or -1. */
    fun idAt(node: Int): Int = ids[node]

    /** The id of exactly this piece, or -1. */
    fun find(piece: String): Int {
        var node = 0
        for (c in piece) {
            node = child(node, c)
            if (node < 0) return NONE
        }
        return ids[node]
    }

    private fun childOrNew(node: Int, c: Char): Int {
        val edge = edge(node, c)
        var slot = slot(edge)
        while (edges[slot] != NONE.toLong()) {
            if (edges[slot] == edge) return targets[slot]
            slot = (slot + 1) and mask
        }
        edges[slot] = edge
        targets[slot] = nodes
        return nodes++
    }

    private fun edge(node: Int, c: Char): Long = (node.toLong() shl 16) or c.code.toLong()

    private fun slot(edge: Long): Int {
        val mixed = edge * -0x61c8864680b583ebL
        return (mixed ushr 32).toInt() and mask
    }
}
