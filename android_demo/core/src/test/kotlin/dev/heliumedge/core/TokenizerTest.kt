package dev.heliumedge.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

class TokenizerTest {
    private val leastTexts = mapOf(
        "tiny" to 7000, "made3" to 2300, "made4" to 2300, "added" to 1000,
        "bpe" to 2800, "bpe-first" to 2800, "bpe-always" to 2800, "bpe-never" to 2800,
        "byte-level" to 2700, "byte-level-gpt2" to 2700, "byte-level-qwen2" to 2700,
    )
    private val tiny = Tokenizer.open(Vectors.file("tokenizers/tiny.json"))

    @Test
    fun `ids and texts are those of the reference`() {
        for ((name, least) in leastTexts) {
            val tokenizer = Tokenizer.open(Vectors.file("tokenizers/$name.json"))
            val cases = Vectors.document("tokenizers/$name-cases.json").cases("texts")
            assertTrue("$name: only ${cases.size} texts", cases.size >= least)
            var right = 0
            for (case in cases) {
                val ids = tokenizer.encode(case.text("text"))
                assertEquals("$name: ids of ${case.text("text").escaped()}", case.ints("ids"), ids.toList())
                assertEquals("$name: text of ${ids.toList()}", case.text("decoded"), tokenizer.decode(ids))
                right++
            }
            println("tokenizer $name: $right of ${cases.size} texts equal")
        }
    }

    @Test
    fun `streams of any ids read as the reference reads them`() {
        for (name in leastTexts.keys) {
            val tokenizer = Tokenizer.open(Vectors.file("tokenizers/$name.json"))
            for (case in Vectors.document("tokenizers/$name-cases.json").cases("ids")) {
                val ids = case.ints("ids").toIntArray()
                assertEquals("$name: ${ids.toList()}", case.text("text"), tokenizer.decode(ids))
                assertEquals("$name: ${ids.toList()} after text", case.text("continued"), tokenizer.stream(continuing = true).all(ids))
            }
        }
    }

    @Test
    fun `a character of several tokens is shown when it is whole`() {
        val stream = tiny.stream(continuing = true)
        val ids = tiny.encode("𐌲x").drop(1)
        assertEquals("▁, four bytes, x", 6, ids.size)
        val shown = ids.map { stream.push(it) }
        assertEquals(listOf(" ", "", "", "", "", "𐌲x"), shown)
        assertEquals("", stream.finish())
    }

    @Test
    fun `byte-level pieces are those of the reference`() {
        for (name in leastTexts.keys.filter { "byte-level" in it }) {
            val cutting = TokenizerFile.read(Vectors.file("tokenizers/$name.json")).byteLevel!!
            // The library knows characters of a younger Unicode than the JDK; to the JDK those have no category.
            val (known, younger) = Vectors.cases("tokenizers/$name-pieces.json").partition { case ->
                case.text("text").codePoints().allMatch(Character::isDefined)
            }
            assertTrue("$name: only ${known.size} texts", known.size >= 30_000)
            val wrong = known.filter { case ->
                val pieces = ArrayList<String>()
                cutting.cut(case.text("text")) { pieces.add(it) }
                pieces != case.texts("pieces")
            }
            assertEquals("$name: texts cut in another way", emptyList<String>(), wrong.map { it.text("text").escaped() })
            println("tokenizer $name: pieces of ${known.size} texts equal, ${younger.size} left out")
        }
    }

    @Test
    fun `a byte-level character is shown when it is whole`() {
        val tokenizer = Tokenizer.open(Vectors.file("tokenizers/byte-level.json"))
        val stream = tokenizer.stream(continuing = true)
        val ids = tokenizer.encodeBare("𐌲x")
        assertEquals("four bytes, x", 5, ids.size)
        assertEquals(listOf("", "", "", "𐌲", "x"), ids.map { stream.push(it) })
        assertEquals(listOf("", "", "", "\uFFFD"), ids.take(3).map { stream.push(it) } + stream.finish())
    }

    @Test
    fun `half a surrogate pair is refused with its place`() {
        val error = assertFails<InvalidRequestException> { tiny.encode("ab\uD83D") }
        assertTrue(error.message!!, "character 2" in error.message!!)
    }

    @Test
    fun `a tokenizer of another kind is refused by name`() {
        val text = Vectors.file("tokenizers/tiny.json").readText()
        val broken = mapOf(
            "\"Unigram\"" to "\"WordLevel\"",
            "\"Prepend\"" to "\"NFKC\"",
            "\"Contiguous\"" to "\"Isolated\"",
            "\"Fuse\"" to "\"WordPiece\"",
            "\"TemplateProcessing\"" to "\"BertProcessing\"",
            "\"unk_id\": 0" to "\"unk_id\": 99999",
            "\"model\"" to "\"modell\"",
        )
        broken.forEach { (from, to) -> assertRefused(text, from, to) }
        val bpe = Vectors.file("tokenizers/bpe-first.json").readText()
        val brokenBpe = mapOf(
            "\"dropout\": null" to "\"dropout\": 0.1",
            "\"unk_token\": \"<unk>\"" to "\"unk_token\": \"<none>\"",
            "\"prepend_scheme\": \"first\"" to "\"prepend_scheme\": \"second\"",
            "\"Metaspace\"" to "\"Whitespace\"",
            "\"</s>\": 2" to "\"</s>\": 2000000000",
            "\"merges\": [" to "\"merges\": [[\"a\", \"no such piece\"], ",
        )
        brokenBpe.forEach { (from, to) -> assertRefused(bpe, from, to) }
        val bytes = Vectors.file("tokenizers/byte-level.json").readText()
        val brokenBytes = mapOf(
            "{1,3}" to "{1,2000}",
            "(?i:" to "(?x:",
            "(?!" to "(?P=",
            "\"Regex\": " to "\"String\": ",
            "\"Isolated\"" to "\"Removed\"",
            "\"invert\": false" to "\"invert\": true",
            "\"Split\"" to "\"Digits\"",
            "\"TemplateProcessing\"" to "\"RobertaProcessing\"",
        )
        brokenBytes.forEach { (from, to) -> assertRefused(bytes, from, to) }
        assertFails<TokenizerException> { TokenizerFile.parse(text.dropLast(1), "tokenizer.json") }
        assertFails<MissingFileException> { Tokenizer.open(File("no such file")) }
    }

    @Test
    fun `text around words keeps special tokens apart`() {
        assertArrayEquals(tiny.encode("a"), intArrayOf(1) + tiny.encode("a").drop(1))
        assertEquals("x", tiny.decode(intArrayOf(1, *tiny.encode("x"), 2)))
    }

    private fun assertRefused(text: String, from: String, to: String) {
        assertTrue(from, from in text)
        val broken = text.replaceFirst(from, to)
        val error = assertFails<TokenizerException> { TokenizerFile.parse(broken, "tokenizer.json") }
        assertTrue(error.message!!, error.message!!.startsWith("tokenizer.json: "))
    }

    private fun StreamDecoder.all(ids: IntArray): String = buildString {
        for (id in ids) append(push(id))
        append(finish())
    }

    private fun String.escaped() = take(80).map { if (it in ' '..'~') it.toString() else "\\u%04x".format(it.code) }.joinToString("")
}
