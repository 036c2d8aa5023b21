package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Test

class ExpressionTest {
    private val document = Vectors.document("expressions.json")

    private fun Expression.pieces(text: String) = ArrayList<String>().also { found -> cut(text, keepsRest = true) { found.add(it) } }

    @Test
    fun `random expressions cut texts where the library does`() {
        val refused = ArrayList<String>()
        val stopped = HashSet<String>()
        val wrong = ArrayList<String>()
        var equal = 0
        for (case in document.cases("random")) {
            val source = case.text("expression")
            val expression = try {
                Expression(source)
            } catch (error: ExpressionException) {
                refused.add("${error.message!!.take(40)}: $source")
                continue
            }
            val expected = case.items("pieces").map { (it as Json.Arr).items.map { piece -> (piece as Json.Str).value } }
            for ((text, pieces) in case.texts("texts").zip(expected)) {
                val found = try {
                    expression.pieces(text)
                } catch (error: InvalidRequestException) {
                    stopped.add(source)
                    continue
                }
                if (found != pieces) wrong.add("$source in <$text>: $found, not $pieces")
            }
            equal++
        }
        assertEquals("${wrong.size} cut in another way", emptyList<String>(), wrong.take(20))
        assertTrue("$stopped", stopped.size < 5)
        val reasons = refused.groupingBy { it.substringBefore(": ") }.eachCount()
        println("$equal random expressions cut 16 texts each as the library; refused: $reasons")
        assertTrue("$equal", equal > 1200)
    }

    @Test
    fun `pre-tokenizers of public models cut texts where the library does`() {
        val names = listOf(
            "gpt-4o", "cl100k", "cl100k-removed", "words-alone", "gpt-2-possessive", "qwen-possessive", "marked-letters", "deepseek-v3", "deepseek", "digits",
        )
        for (name in names) {
            val cutting = TokenizerFile.read(Vectors.file("tokenizers/split-$name.json")).byteLevel!!
            val known = Vectors.cases("tokenizers/split-$name-pieces.json").filter { it.text("text").codePoints().allMatch(Character::isDefined) }
            assertTrue("$name: only ${known.size} texts", known.size > 6000)
            for (case in known) {
                val pieces = ArrayList<String>()
                cutting.cut(case.text("text")) { pieces.add(it) }
                assertEquals("$name: ${case.text("text")}", case.texts("pieces"), pieces)
            }
            println("pre-tokenizer $name: pieces of ${known.size} texts equal")
        }
    }

    @Test
    fun `what is not implemented is refused by name`() {
        val cases = document.cases("refused")
        assertTrue(cases.size > 40)
        for (case in cases) {
            val source = case.text("expression")
            val error = assertFails<ExpressionException> { Expression(source) }
            assertTrue("${source.take(40)}: ${error.message}", case.text("word") in error.message!!)
        }
    }

    @Test
    fun `an expression that would never end is stopped`() {
        for (source in listOf("(?:a+)+b", "(?:a|a)*b", "a*a*a*a*a*a*b", "(?:a|aa)+$|(?:a?){30}a{30}b", "(?=(?:a+)+b)a|b", "(?<=(?:a{0,9}){0,9})b")) {
            val expression = Expression(source)
            val start = System.nanoTime()
            val error = assertFails<InvalidRequestException> { expression.pieces("a".repeat(3000)) }
            assertEquals(listOf(Phrase.TEXT_TOO_COMPLEX, listOf<Any>(3000), Phrase.SHORTEN_OR_VARY), listOf(error.said.phrase, error.said.values, error.remedy.phrase))
            val millis = (System.nanoTime() - start) / 1_000_000
            assertTrue("$source took $millis ms", millis < 3000)
        }
    }

    @Test
    fun `long words and little stacks do`() {
        val long = "a".repeat(200_000)
        var found: List<Int>? = null
        var failure: Throwable? = null
        // Android's threads have about a MiB; here a quarter of it.
        Thread(null, {
            try {
                found = listOf("""\p{L}+""", """[^\r\n\p{L}\p{N}]?\p{L}*[\p{Lo}a]+""", """(?:aa|a)*+""" + "a?b|a+", """\s*[\r\n]+|\s+(?!\S)|\p{L}+?$""")
                    .map { Expression(it).pieces(long).size }
            } catch (error: Throwable) {
                failure = error
            }
        }, "little", 256 shl 10).apply { start() }.join()
        assertEquals(null, failure)
        assertEquals(listOf(1, 1, 1, 1), found)
        val loop = Expression("(?:ab)+c?")
        assertEquals(listOf("ab".repeat(250)), loop.pieces("ab".repeat(250)))
        assertNotNull(assertFails<InvalidRequestException> { loop.pieces("ab".repeat(20_000)) })
        assertEquals("a possessive one keeps no iteration", listOf("ab".repeat(20_000)), Expression("(?:ab)++").pieces("ab".repeat(20_000)))
    }
}
