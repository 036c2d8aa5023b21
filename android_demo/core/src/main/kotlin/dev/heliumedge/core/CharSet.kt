package dev.heliumedge.core

/** White_Space of Unicode, from and to. */
private val WHITE_SPACE = intArrayOf(
    0x09, 0x0D, 0x20, 0x20, 0x85, 0x85, 0xA0, 0xA0, 0x1680, 0x1680, 0x2000, 0x200A, 0x2028, 0x2029, 0x202F, 0x202F,
    0x205F, 0x205F, 0x3000, 0x3000,
)

private const val ASCII = 128

/** General categories of Unicode, by the number that [Character.getType] gives them. */
private val CATEGORIES: Map<String, Int> = mapOf(
    "Cn" to Character.UNASSIGNED, "Lu" to Character.UPPERCASE_LETTER, "Ll" to Character.LOWERCASE_LETTER,
    "Lt" to Character.TITLECASE_LETTER, "Lm" to Character.MODIFIER_LETTER, "Lo" to Character.OTHER_LETTER,
    "Mn" to Character.NON_SPACING_MARK, "Me" to Character.ENCLOSING_MARK, "Mc" to Character.COMBINING_SPACING_MARK,
    "Nd" to Character.DECIMAL_DIGIT_NUMBER, "Nl" to Character.LETTER_NUMBER, "No" to Character.OTHER_NUMBER,
    "Zs" to Character.SPACE_SEPARATOR, "Zl" to Character.LINE_SEPARATOR, "Zp" to Character.PARAGRAPH_SEPARATOR,
    "Cc" to Character.CONTROL, "Cf" to Character.FORMAT, "Co" to Character.PRIVATE_USE, "Cs" to Character.SURROGATE,
    "Pd" to Character.DASH_PUNCTUATION, "Ps" to Character.START_PUNCTUATION, "Pe" to Character.END_PUNCTUATION,
    "Pc" to Character.CONNECTOR_PUNCTUATION, "Po" to Character.OTHER_PUNCTUATION, "Pi" to Character.INITIAL_QUOTE_PUNCTUATION,
    "Pf" to Character.FINAL_QUOTE_PUNCTUATION, "Sm" to Character.MATH_SYMBOL, "Sc" to Character.CURRENCY_SYMBOL,
    "Sk" to Character.MODIFIER_SYMBOL, "So" to Character.OTHER_SYMBOL,
).mapValues { 1 shl it.value.toInt() }

/** Names of groups of categories, and of single ones, in full. */
private val LONG_NAMES = mapOf(
    "letter" to "L", "uppercaseletter" to "Lu", "lowercaseletter" to "Ll", "titlecaseletter" to "Lt",
    "modifierletter" to "Lm", "otherletter" to "Lo", "mark" to "M", "nonspacingmark" to "Mn", "spacingmark" to "Mc",
    "enclosingmark" to "Me", "number" to "N", "decimalnumber" to "Nd", "digit" to "Nd", "letternumber" to "Nl",
    "othernumber" to "No", "punctuation" to "P", "symbol" to "S", "separator" to "Z", "other" to "C",
)

private val ALL_CATEGORIES = CATEGORIES.values.fold(0, Int::or)

/** A set of characters: of categories, of scripts and of ranges together, or what is in none of them. */
internal class CharSet private constructor(
    private val categories: Int,
    private val scripts: Set<Character.UnicodeScript>,
    /** From and to, in turn. */
    private val ranges: IntArray,
    private val negated: Boolean,
) {
    private val ascii = BooleanArray(ASCII, ::look)

    operator fun contains(point: Int): Boolean = if (point < ASCII) ascii[point] else look(point)

    /** Both together; neither may be [negated], which only the finished class is. */
    operator fun plus(other: CharSet): CharSet = CharSet(categories or other.categories, scripts + other.scripts, ranges + other.ranges, false)

    /** Every other character. */
    fun inverted(): CharSet = CharSet(categories, scripts, ranges, !negated)

    private fun look(point: Int): Boolean {
        if (categories != 0 && categories and (1 shl Character.getType(point)) != 0) return !negated
        for (at in ranges.indices step 2) if (point in ranges[at]..ranges[at + 1]) return !negated
        if (scripts.isNotEmpty() && Character.UnicodeScript.of(point) in scripts) return !negated
        return negated
    }

    companion object {
        val NOTHING = CharSet(0, emptySet(), IntArray(0), false)
        val SPACE = CharSet(0, emptySet(), WHITE_SPACE, false)

        /** The same as [SPACE] inverted, as ranges, so that it can be joined with others. */
        val NO_SPACE = CharSet(0, emptySet(), outside(WHITE_SPACE), false)
        val HEXADECIMAL = range('0'.code, '9'.code) + range('A'.code, 'F'.code) + range('a'.code, 'f'.code)
        val NO_LINE_FEED = CharSet(0, emptySet(), outside(intArrayOf(0x0A, 0x0A)), false)

        /** `\w` of Oniguruma in a class: Alphabetic, of which two blocks are symbols; marks, decimal digits, connectors. */
        val WORD_IN_CLASS = listOf("L", "M", "Nl", "Nd", "Pc").map { category(it)!! }.reduce(CharSet::plus) +
            CharSet(0, emptySet(), intArrayOf(0x24B6, 0x24E9, 0x1F130, 0x1F149, 0x1F150, 0x1F169, 0x1F170, 0x1F189), false)

        /** `\w` by itself, and what `\b` asks: with six numbers of Latin-1, as superscripts and fractions, as well. */
        val WORD = WORD_IN_CLASS + CharSet(0, emptySet(), intArrayOf(0xB2, 0xB3, 0xB9, 0xB9, 0xBC, 0xBE), false)

        fun range(from: Int, to: Int): CharSet = CharSet(0, emptySet(), intArrayOf(from, to), false)

        /** The characters of a property, or without it: a category, a group of them, or a script; null if there is none. */
        fun property(name: String, without: Boolean): CharSet? {
            val plain = name.filter { it !in " -_" }
            val wanted = category(plain) ?: LONG_NAMES[plain.lowercase()]?.let(::category)
            if (wanted != null) return if (without) CharSet(wanted.categories xor ALL_CATEGORIES, emptySet(), IntArray(0), false) else wanted
            val script = try {
                Character.UnicodeScript.forName(name.trim().replace(' ', '_').replace('-', '_'))
            } catch (_: IllegalArgumentException) {
                return null
            }
            val scripts = if (without) Character.UnicodeScript.values().toSet() - script else setOf(script)
            return CharSet(0, scripts, IntArray(0), false)
        }

        private fun category(name: String): CharSet? {
            val short = name.lowercase().replaceFirstChar(Char::uppercaseChar)
            val mask = CATEGORIES.filterKeys { it == short || (short.length == 1 && it.startsWith(short)) }.values.fold(0, Int::or)
            return if (mask == 0) null else CharSet(mask, emptySet(), IntArray(0), false)
        }

        private fun outside(ranges: IntArray): IntArray {
            val starts = listOf(0) + ranges.filterIndexed { index, _ -> index % 2 == 1 }.map { it + 1 }
            val ends = ranges.filterIndexed { index, _ -> index % 2 == 0 }.map { it - 1 } + Character.MAX_CODE_POINT
            return starts.zip(ends).flatMap { listOf(it.first, it.second) }.toIntArray()
        }
    }
}
