package dev.heliumedge.core

/** Iterations of a repeated group that are kept to come back to; each takes frames of the stack. */
private const val MAX_DEPTH = 300

/** Copies of parts that counted repetitions of groups may make. */
private const val MAX_NODES = 5_000

/** Steps that any text is granted, and for each of its characters: a few milliseconds, and some hundred a thousand. */
private const val STEPS = 100_000L
private const val STEPS_PER_CHARACTER = 500L

/**
 * A regular expression of a tokenizer file, and a matcher of our own for it.
 *
 * The regular expressions of the JDK and of Android are two others, which differ from each other and from Oniguruma, in
 * which the files are written; and neither can be stopped. This one takes steps that are counted, backtracks as
 * Oniguruma does, and knows characters by [Character] alone.
 *
 * @throws ExpressionException The expression is none, or one that is not implemented.
 */
internal class Expression(source: String) {
    private var nodes = 0
    private val start: Node = compile(ExpressionParser(source).parse(), Accept)

    /**
     * Hands out the matches, and where [keepsRest] what stands between them, in order.
     *
     * @throws InvalidRequestException The text takes more steps than any tokenizer should.
     */
    inline fun cut(text: String, keepsRest: Boolean, piece: (String) -> Unit) {
        val run = Run(text)
        var done = 0
        var at = 0
        while (at < text.length) {
            val end = match(run, at)
            if (end < 0) {
                at += Character.charCount(text.codePointAt(at))
                continue
            }
            if (keepsRest && done < at) piece(text.substring(done, at))
            piece(text.substring(at, end))
            at = end
            done = end
        }
        if (keepsRest && done < text.length) piece(text.substring(done))
    }

    /** Where the match that begins at [at] ends, or -1. */
    fun match(run: Run, at: Int): Int = start.match(run, at)

    // -- from parts to nodes, each of which knows what comes after it

    private fun compile(part: Part, next: Node): Node {
        if (++nodes > MAX_NODES) throw ExpressionException("has counted repetitions that are too long together")
        return when (part) {
            is Part.Chars -> Single(part.set, next)
            is Part.Sequence -> part.parts.foldRight(next) { each, after -> compile(each, after) }
            is Part.Choice -> Branch(part.parts.map { compile(it, next) })
            is Part.Atomic -> Inner(compile(part.part, Accept), next)
            is Part.Look -> look(part, next)
            is Part.Anchor -> Anchored(part.kind, next)
            is Part.Repeat -> repeat(part, next)
        }
    }

    private fun look(part: Part.Look, next: Node): Node =
        if (part.behind) Behind(compile(part.part, AcceptAtEnd), part.part.least, part.part.most, part.negative, next)
        else Ahead(compile(part.part, Accept), part.negative, next)

    private fun repeat(part: Part.Repeat, next: Node): Node {
        val body = part.part
        if (body is Part.Chars) return CharLoop(body.set, part.min, part.max, part.mode, next)
        if (part.mode == Mode.POSSESSIVE) {
            val inner = if (part.max == Part.UNBOUNDED) possessive(part) else compile(Part.Repeat(body, part.min, part.max, Mode.GREEDY), Accept)
            return Inner(inner, next)
        }
        val lazy = part.mode == Mode.LAZY
        var rest: Node = next
        if (part.max == Part.UNBOUNDED) {
            rest = Loop(lazy, next).also { it.body = compile(body, it) }
        } else {
            for (count in part.min until part.max) {
                val more = compile(body, rest)
                rest = Branch(if (lazy) listOf(next, more) else listOf(more, next))
            }
        }
        repeat(part.min) { rest = compile(body, rest) }
        return rest
    }

    /** Takes no iteration back, so that none has to be kept. */
    private fun possessive(part: Part.Repeat): Node = Eager(compile(part.part, Accept), part.min)

    /** A text that is matched, and the steps that were taken. */
    class Run(val text: String) {
        private var steps = STEPS + STEPS_PER_CHARACTER * text.length
        var depth = 0

        /** Where a look behind must end. */
        var end = 0

        fun step() {
            if (--steps < 0) tooComplex()
        }

        fun deeper() {
            if (++depth > MAX_DEPTH) tooComplex()
        }

        private fun tooComplex(): Nothing =
            throw InvalidRequestException(Phrase.TEXT_TOO_COMPLEX.with(text.length), Phrase.SHORTEN_OR_VARY.with())
    }

    abstract class Node {
        /** Where the whole match ends that goes on from [at], or -1. */
        abstract fun match(run: Run, at: Int): Int
    }

    private object Accept : Node() {
        override fun match(run: Run, at: Int): Int = at
    }

    private object AcceptAtEnd : Node() {
        override fun match(run: Run, at: Int): Int = if (at == run.end) at else -1
    }

    private class Single(private val set: CharSet, private val next: Node) : Node() {
        override fun match(run: Run, at: Int): Int {
            run.step()
            val after = after(run.text, set, at)
            return if (after < 0) -1 else next.match(run, after)
        }
    }

    private class Branch(private val ways: List<Node>) : Node() {
        override fun match(run: Run, at: Int): Int {
            for (index in ways.indices) {
                run.step()
                val end = ways[index].match(run, at)
                if (end >= 0) return end
            }
            return -1
        }
    }

    /** A repeated single character: a loop, without a frame of the stack for each. */
    private class CharLoop(private val set: CharSet, private val min: Int, private val max: Int, private val mode: Mode, private val next: Node) : Node() {
        override fun match(run: Run, at: Int): Int {
            var count = 0
            var end = at
            val first = if (mode == Mode.LAZY) min else max
            while (count < first) {
                run.step()
                val after = after(run.text, set, end)
                if (after < 0) break
                end = after
                count++
            }
            if (count < min) return -1
            return if (mode == Mode.LAZY) forth(run, end, count) else back(run, end, count)
        }

        private fun back(run: Run, from: Int, taken: Int): Int {
            var end = from
            var count = taken
            while (true) {
                run.step()
                val found = next.match(run, end)
                if (found >= 0 || count == min || mode == Mode.POSSESSIVE) return found
                end -= Character.charCount(run.text.codePointBefore(end))
                count--
            }
        }

        private fun forth(run: Run, from: Int, taken: Int): Int {
            var end = from
            var count = taken
            while (true) {
                run.step()
                val found = next.match(run, end)
                if (found >= 0 || count == max) return found
                end = after(run.text, set, end)
                if (end < 0) return -1
                count++
            }
        }
    }

    /** A repeated group: its body comes back to here. */
    private class Loop(private val lazy: Boolean, private val next: Node) : Node() {
        lateinit var body: Node

        override fun match(run: Run, at: Int): Int {
            run.step()
            run.deeper()
            val first = if (lazy) next.match(run, at) else body.match(run, at)
            val found = if (first >= 0) first else if (lazy) body.match(run, at) else next.match(run, at)
            run.depth--
            return found
        }
    }

    private class Eager(private val body: Node, private val min: Int) : Node() {
        override fun match(run: Run, at: Int): Int {
            var end = at
            var count = 0
            while (true) {
                val after = body.match(run, end)
                if (after < 0) return if (count < min) -1 else end
                end = after
                count++
            }
        }
    }

    /** A group that gives nothing back once it is matched. */
    private class Inner(private val body: Node, private val next: Node) : Node() {
        override fun match(run: Run, at: Int): Int {
            val end = body.match(run, at)
            return if (end < 0) -1 else next.match(run, end)
        }
    }

    private class Ahead(private val body: Node, private val negative: Boolean, private val next: Node) : Node() {
        override fun match(run: Run, at: Int): Int =
            if ((body.match(run, at) >= 0) == negative) -1 else next.match(run, at)
    }

    private class Behind(private val body: Node, private val least: Int, private val most: Int, private val negative: Boolean, private val next: Node) : Node() {
        override fun match(run: Run, at: Int): Int = if (found(run, at) == negative) -1 else next.match(run, at)

        private fun found(run: Run, at: Int): Boolean {
            val outer = run.end
            run.end = at
            var start = at
            var width = 0
            var found = false
            while (!found) {
                run.step()
                if (width >= least) found = body.match(run, start) >= 0
                if (width++ == most || start == 0) break
                start -= Character.charCount(run.text.codePointBefore(start))
            }
            run.end = outer
            return found
        }
    }

    private class Anchored(private val kind: AnchorKind, private val next: Node) : Node() {
        override fun match(run: Run, at: Int): Int = if (holds(run.text, at)) next.match(run, at) else -1

        private fun holds(text: String, at: Int): Boolean = when (kind) {
            // No line begins behind a line feed that ends the text.
            AnchorKind.LINE_START -> at == 0 || (at < text.length && text[at - 1] == '\n')
            AnchorKind.LINE_END -> at == text.length || text[at] == '\n'
            AnchorKind.TEXT_START -> at == 0
            AnchorKind.TEXT_END -> at == text.length
            AnchorKind.TEXT_END_OR_LINE_FEED -> at == text.length || (at == text.length - 1 && text[at] == '\n')
            AnchorKind.WORD_EDGE -> isEdge(text, at)
            AnchorKind.NO_WORD_EDGE -> !isEdge(text, at)
        }

        private fun isEdge(text: String, at: Int): Boolean {
            val before = at > 0 && text.codePointBefore(at) in CharSet.WORD
            return before != (at < text.length && text.codePointAt(at) in CharSet.WORD)
        }
    }
}

/** Where the character at [at] ends if the set has it, or -1. */
private fun after(text: String, set: CharSet, at: Int): Int {
    if (at >= text.length) return -1
    val point = text.codePointAt(at)
    return if (point in set) at + Character.charCount(point) else -1
}
