package dev.heliumedge.core

private const val MAX_LENGTH = 10_000
private const val MAX_NESTING = 50
private const val MAX_COUNT = 1000

/** Widest text that a lookbehind may look at. */
private const val MAX_BEHIND = 100

/** What single letters match together with others that are no letters of ASCII, where case is ignored. */
private val WIDE_FOLDS = listOf("ss", "ff", "fi", "fl", "st")

/** An expression that is not of the kind that is implemented; callers name the file. */
internal class ExpressionException(message: String) : Exception(message)

/** A part of an expression. */
internal sealed class Part {
    /** Fewest and most characters that it matches; [UNBOUNDED] is no limit. */
    abstract val least: Int
    abstract val most: Int

    class Chars(val set: CharSet) : Part() {
        override val least = 1
        override val most = 1
    }

    class Sequence(val parts: List<Part>) : Part() {
        override val least = parts.fold(0) { sum, part -> add(sum, part.least) }
        override val most = parts.fold(0) { sum, part -> add(sum, part.most) }
    }

    class Choice(val parts: List<Part>) : Part() {
        override val least = parts.minOf { it.least }
        override val most = parts.maxOf { it.most }
    }

    class Repeat(val part: Part, val min: Int, val max: Int, val mode: Mode) : Part() {
        override val least = times(part.least, min)
        override val most = times(part.most, max)
    }

    class Atomic(val part: Part) : Part() {
        override val least = part.least
        override val most = part.most
    }

    class Look(val part: Part, val behind: Boolean, val negative: Boolean) : Part() {
        override val least = 0
        override val most = 0
    }

    class Anchor(val kind: AnchorKind) : Part() {
        override val least = 0
        override val most = 0
    }

    companion object {
        const val UNBOUNDED = Int.MAX_VALUE

        private fun add(a: Int, b: Int) = if (a == UNBOUNDED || b == UNBOUNDED) UNBOUNDED else minOf(a.toLong() + b, UNBOUNDED - 1L).toInt()

        private fun times(width: Int, count: Int) = when {
            width == 0 || count == 0 -> 0
            width == UNBOUNDED || count == UNBOUNDED -> UNBOUNDED
            else -> minOf(width.toLong() * count, UNBOUNDED - 1L).toInt()
        }
    }
}

/** How much a repetition takes first, and whether it gives back. */
internal enum class Mode { GREEDY, LAZY, POSSESSIVE }

internal enum class AnchorKind { LINE_START, LINE_END, TEXT_START, TEXT_END, TEXT_END_OR_LINE_FEED, WORD_EDGE, NO_WORD_EDGE }

/**
 * Reads the regular expressions of tokenizer files, which are Oniguruma's in the syntax of Ruby: `^` and `$` are those
 * of lines, `.` matches all but a line feed, `{1,3}+` repeats what `{1,3}` repeats. What is not implemented is refused
 * by its name, never read in another way.
 */
internal class ExpressionParser(private val source: String) {
    private var at = 0
    private var nesting = 0
    private var ignoresCase = false

    /** @throws ExpressionException It is none, or one that is not implemented. */
    fun parse(): Part {
        if (source.length > MAX_LENGTH) fail("is longer than $MAX_LENGTH characters")
        if (take("(?i)")) ignoresCase = true
        val part = choice()
        if (at < source.length) fail("has a ) without its (")
        if (part.least == 0) fail("may match a text without characters")
        return part
    }

    private fun choice(): Part {
        if (++nesting > MAX_NESTING) fail("is nested too deeply")
        val parts = arrayListOf(sequence())
        while (take("|")) parts.add(sequence())
        nesting--
        return parts.singleOrNull() ?: Part.Choice(parts)
    }

    private fun sequence(): Part {
        val parts = ArrayList<Part>()
        var letters = ""
        while (at < source.length && source[at] != '|' && source[at] != ')') {
            val start = at
            val atom = atom()
            val letter = source.substring(start, at).takeIf { ignoresCase && it.length == 1 }?.lowercase().orEmpty()
            letters = (letters.takeLast(1) + letter).takeIf { letter.isNotEmpty() }.orEmpty()
            if (letters in WIDE_FOLDS) fail("ignores the case of \"$letters\", which also matches a single character")
            parts.add(repeated(atom, letter))
        }
        return parts.singleOrNull() ?: Part.Sequence(parts)
    }

    private fun atom(): Part {
        val c = source[at++]
        return when (c) {
            '(' -> group()
            '[' -> Part.Chars(characterClass())
            '.' -> Part.Chars(CharSet.NO_LINE_FEED)
            '^' -> Part.Anchor(AnchorKind.LINE_START)
            '$' -> Part.Anchor(AnchorKind.LINE_END)
            '\\' -> escape()
            '*', '+', '?' -> fail("has a $c that repeats nothing")
            else -> {
                at--
                literal(point())
            }
        }
    }

    private fun group(): Part {
        if (!take("?")) return closed { choice() }
        return when {
            take(":") -> closed { choice() }
            take("i:") -> withCase(ignored = true)
            take("-i:") -> withCase(ignored = false)
            take(">") -> Part.Atomic(closed { choice() })
            take("=") -> Part.Look(closed { choice() }, behind = false, negative = false)
            take("!") -> Part.Look(closed { choice() }, behind = false, negative = true)
            take("<=") -> behind(negative = false)
            take("<!") -> behind(negative = true)
            else -> fail(unknownGroup())
        }
    }

    private fun unknownGroup(): String = when (source.getOrNull(at)) {
        '<', '\'', 'P' -> "has a named group"
        '#' -> "has a comment"
        '~' -> "has an absent operator (?~"
        '(' -> "has a condition (?("
        '{' -> "has a callout (?{"
        'R', '&', in '0'..'9' -> "has a recursion"
        else -> "has options that are not implemented: (?${source.drop(at).take(4)}"
    }

    private fun withCase(ignored: Boolean): Part {
        val before = ignoresCase
        ignoresCase = ignored
        return closed { choice() }.also { ignoresCase = before }
    }

    private fun behind(negative: Boolean): Part {
        val part = closed { choice() }
        if (part.most > MAX_BEHIND) fail("looks behind by more than $MAX_BEHIND characters")
        return Part.Look(part, behind = true, negative = negative)
    }

    private inline fun <T> closed(read: () -> T): T = read().also { if (!take(")")) fail("has a ( without its )") }

    // -- repetitions

    private fun repeated(atom: Part, letter: String): Part {
        val start = at
        val counts = counts() ?: return atom
        val interval = source[start] == '{'
        if (atom is Part.Anchor || atom is Part.Look) fail("repeats what has no characters")
        if (atom.least == 0 && counts.second == Part.UNBOUNDED) fail("repeats without end what may be empty")
        if (interval && letter.isNotEmpty() && letter in "sf" && counts.second > 1) fail("ignores the case of a repeated $letter")
        val part = quantified(atom, counts, interval)
        if (at < source.length && (source[at] in "*+?" || isInterval())) fail("repeats a repetition")
        return part
    }

    private fun quantified(atom: Part, counts: Pair<Int, Int>, interval: Boolean): Part {
        val (min, max) = counts
        return when {
            !take("?") && !take("+") -> Part.Repeat(atom, min, max, Mode.GREEDY)
            // As of Ruby: an interval is not possessive, and one count is not lazy; both are repeated once more.
            interval && source[at - 1] == '+' -> repeatedInterval(atom, min, max)
            interval && min == max -> Part.Repeat(Part.Repeat(atom, min, max, Mode.GREEDY), 0, 1, Mode.GREEDY)
            source[at - 1] == '?' -> Part.Repeat(atom, min, max, Mode.LAZY)
            else -> Part.Repeat(atom, min, max, Mode.POSSESSIVE)
        }
    }

    /** `X{1,3}+` is `X+`: the same lengths in the same order. */
    private fun repeatedInterval(atom: Part, min: Int, max: Int): Part = when {
        max == 0 || atom.least == 0 -> fail("repeats without end what may be empty")
        min <= 1 && atom is Part.Chars -> Part.Repeat(atom, min, Part.UNBOUNDED, Mode.GREEDY)
        min == 0 -> fail("repeats without end what may be empty")
        else -> Part.Repeat(Part.Repeat(atom, min, max, Mode.GREEDY), 1, Part.UNBOUNDED, Mode.GREEDY)
    }

    private fun counts(): Pair<Int, Int>? = when {
        take("*") -> 0 to Part.UNBOUNDED
        take("+") -> 1 to Part.UNBOUNDED
        take("?") -> 0 to 1
        isInterval() -> interval()
        else -> null
    }

    private fun isInterval(): Boolean = INTERVAL.matchesAt(source, at)

    private fun interval(): Pair<Int, Int> {
        val match = INTERVAL.matchAt(source, at)!!
        at += match.value.length
        val (low, comma, high) = match.destructured
        val min = if (low.isEmpty()) 0 else count(low)
        val max = if (comma.isEmpty()) min else if (high.isEmpty()) Part.UNBOUNDED else count(high)
        if (min > max) fail("has the interval ${match.value}, whose ends are in a wrong order")
        return min to max
    }

    private fun count(digits: String): Int =
        digits.toIntOrNull()?.takeIf { it <= MAX_COUNT } ?: fail("repeats more than $MAX_COUNT times")

    // -- characters

    private fun point(): Int {
        val point = source.codePointAt(at)
        at += Character.charCount(point)
        return point
    }

    private fun literal(point: Int): Part = Part.Chars(cased(point, point))

    /** A range of characters, with those that differ from them in case alone where case is ignored. */
    private fun cased(from: Int, to: Int): CharSet {
        val plain = CharSet.range(from, to)
        if (!ignoresCase) return plain
        if (to >= 0x80 && (from != to || Character.isLetter(from) || Character.getType(from) == Character.NON_SPACING_MARK.toInt())) {
            fail("ignores the case of characters other than ASCII's")
        }
        var all = plain
        for (letter in 'a'..'z') {
            val upper = letter.uppercaseChar()
            if (letter.code !in from..to && upper.code !in from..to) continue
            all = all + CharSet.range(letter.code, letter.code) + CharSet.range(upper.code, upper.code)
            // The long s and the sign of Kelvin.
            if (letter == 's') all += CharSet.range(0x17F, 0x17F)
            if (letter == 'k') all += CharSet.range(0x212A, 0x212A)
        }
        return all
    }

    private fun escape(): Part {
        val start = at
        if (at == source.length) fail("ends with a \\")
        shorthand(CharSet.WORD)?.let { return Part.Chars(it) }
        val kind = when (source[at]) {
            'A' -> AnchorKind.TEXT_START
            'z' -> AnchorKind.TEXT_END
            'Z' -> AnchorKind.TEXT_END_OR_LINE_FEED
            'b' -> AnchorKind.WORD_EDGE
            'B' -> AnchorKind.NO_WORD_EDGE
            'W' -> {
                at++
                return Part.Chars(CharSet.WORD.inverted())
            }
            else -> null
        }
        at = start
        if (kind == null) return literal(escapedPoint())
        at++
        return Part.Anchor(kind)
    }

    /** `\p{L}`, `\s` and the like behind the backslash; null, and nothing read, for anything else. */
    private fun shorthand(word: CharSet): CharSet? {
        val c = source[at]
        if (c == 'p' || c == 'P') return property()
        val set = when (c) {
            's' -> CharSet.SPACE
            'S' -> CharSet.NO_SPACE
            'd' -> CharSet.property("Nd", without = false)
            'D' -> CharSet.property("Nd", without = true)
            'h' -> CharSet.HEXADECIMAL
            'w' -> word
            else -> return null
        }
        if (c == 'w' && ignoresCase) fail("ignores the case of \\w")
        at++
        return set
    }

    private fun property(): CharSet {
        val match = PROPERTY.matchAt(source, at) ?: fail("has a \\p without a name in braces")
        at += match.value.length
        val (letter, negation, name) = match.destructured
        if (ignoresCase) fail("ignores the case of ${match.value}")
        return CharSet.property(name, without = (letter == "P") != negation.isNotEmpty()) ?: fail("has the property $name, which is not known")
    }

    /** A character that is written with a backslash, which is read already. */
    private fun escapedPoint(): Int {
        if (at == source.length) fail("ends with a \\")
        val c = source[at]
        CONTROLS[c]?.let {
            at++
            return it
        }
        if (c == 'x' || c == 'u') return numbered()
        val point = point()
        when {
            c in '0'..'9' -> fail("has a backreference or an octal number: \\$c")
            c == 'k' || c == 'g' -> fail("has a backreference or a recursion: \\$c")
            c in 'a'..'z' || c in 'A'..'Z' || c.code >= 0x80 -> fail("has \\$c, which is not implemented")
        }
        return point
    }

    private fun numbered(): Int {
        val match = NUMBER.matchAt(source, at) ?: fail("has \\${source[at]} without its digits")
        at += match.value.length
        val digits = match.groupValues.drop(1).first { it.isNotEmpty() }
        val point = digits.toInt(16)
        // Two digits of a number above 7F would be a byte of UTF-8.
        if (point > Character.MAX_CODE_POINT || point in 0xD800..0xDFFF || (match.value.length == 3 && point > 0x7F)) {
            fail("has ${match.value} after a \\, which is no character")
        }
        return point
    }

    private fun characterClass(): CharSet {
        val inverted = take("^")
        var set = CharSet.NOTHING
        var empty = true
        while (true) {
            if (at == source.length) fail("has a [ without its ]")
            if (source[at] == ']') {
                if (empty) fail("has a ] that comes first in a class")
                at++
                return if (inverted) set.inverted() else set
            }
            set += classItem()
            empty = false
        }
    }

    private fun classItem(): CharSet {
        if (source.startsWith("[:", at)) fail("has a POSIX class [:")
        if (source[at] == '[') fail("has a class within a class")
        if (source.startsWith("&&", at)) fail("has an intersection of classes &&")
        if (take("\\")) {
            if (at == source.length) fail("ends with a \\")
            shorthand(CharSet.WORD_IN_CLASS)?.let { return it }
            if (source[at] == 'W') fail("has \\W in a class")
        } else {
            return ranged(point())
        }
        return ranged(if (take("b")) 0x08 else escapedPoint())
    }

    private fun ranged(from: Int): CharSet {
        // A minus before the end is itself.
        if (!source.startsWith("-", at) || source.startsWith("-]", at)) return cased(from, from)
        at++
        if (at == source.length || source[at] == '[') fail("has a range without its end")
        val to = if (take("\\")) escapedPoint() else point()
        if (to < from) fail("has a range whose ends are in a wrong order")
        return cased(from, to)
    }

    private fun take(text: String): Boolean {
        val there = source.startsWith(text, at)
        if (there) at += text.length
        return there
    }

    private fun fail(what: String): Nothing = throw ExpressionException(what)

    private companion object {
        val INTERVAL = Regex("""\{(?=[0-9,]*[0-9])([0-9]*)(,?)([0-9]*)\}""")
        val PROPERTY = Regex("""([pP])\{(\^?)([A-Za-z_ -]+)\}""")
        val NUMBER = Regex("""x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})""")
        val CONTROLS = mapOf('t' to 0x09, 'n' to 0x0A, 'v' to 0x0B, 'f' to 0x0C, 'r' to 0x0D, 'a' to 0x07, 'e' to 0x1B)
    }
}
