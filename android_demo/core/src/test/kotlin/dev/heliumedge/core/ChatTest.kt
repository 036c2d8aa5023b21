package dev.heliumedge.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class ChatTest {
    private val tokenizer = Tokenizer.open(Vectors.file("tokenizers/chat.json"))
    private val turn = RoleForm("<|im_start|>user\n", "<|im_end|>\n", Trim.NONE)
    private val chatml = ChatForm(
        prefix = "<s>",
        system = turn.copy(before = "<|im_start|>system\n"),
        withoutSystem = "",
        skipEmptySystem = false,
        user = turn,
        firstUser = null,
        userAfterSystem = null,
        assistant = turn.copy(before = "<|im_start|>assistant\n"),
        generationPrompt = "<|im_start|>assistant\n",
    )

    private fun Case.messages(): List<ChatMessage> = cases("messages").map { message ->
        ChatMessage(ChatRole.values().first { it.id == message.text("role") }, message.text("content"))
    }

    private fun Case.spans(): List<ChatSpan> = items("spans").map { span ->
        val (text, own) = (span as Json.Arr).items
        ChatSpan((text as Json.Str).value, (own as Json.Bool).value)
    }

    @Test
    fun `texts of conversations are those of the reference`() {
        val cases = Vectors.cases("chat-texts.json")
        assertTrue(cases.size > 500)
        cases.forEachIndexed { index, case ->
            val chat = ManifestReader.chat(JsonFields.of(case.json("chat"), "chat"))
            assertEquals("case $index", case.spans(), chat.form!!.spans(case.messages()))
            assertEquals(setOf(2, 7), chat.stop)
        }
    }

    @Test
    fun `ids are those of the reference, and users spell no special token`() {
        val encoder = SpanEncoder(tokenizer, listOf("[INST] "), setOf(2))
        val cases = Vectors.cases("chat-ids.json")
        assertTrue(cases.size > 400)
        cases.forEachIndexed { index, case ->
            val spans = case.spans()
            val ids = encoder.encode(spans)
            assertEquals("case $index of $spans", case.ints("ids"), ids.toList())
            if (spans.none { it.own }) assertTrue(ids.none { it in 1..3 || it >= 4096 })
        }
    }

    @Test
    fun `the turns that go for want of room are those of the reference`() {
        val encoder = SpanEncoder(tokenizer, emptyList(), emptySet())
        val cases = Vectors.cases("chat-fits.json")
        assertTrue(cases.any { it.int("dropped") > 2 } && cases.any { it.int("dropped") < 0 })
        for (case in cases) {
            val cached = TokenLog().apply { case.ints("cached").forEach(::add) }
            val fit = { fitConversation({ encoder.encode(chatml.spans(it)) }, case.messages(), case.int("room"), cached) }
            if (case.int("dropped") < 0) {
                assertFails<CacheFullException> { fit() }
            } else {
                val found = fit()
                assertEquals(case.int("dropped"), found.dropped)
                assertEquals(case.ints("ids"), found.ids.toList())
            }
        }
    }

    private fun user(text: String) = ChatMessage(ChatRole.USER, text)

    private fun assistant(text: String) = ChatMessage(ChatRole.ASSISTANT, text)

    @Test
    fun `an answer runs only what the cache does not hold`() {
        // Ids below the size of the stand-in's vocabulary: bytes, and no turn tokens.
        val form = chatml.copy(prefix = "", user = RoleForm("", "", Trim.NONE), system = null, assistant = RoleForm("", "", Trim.NONE), generationPrompt = "")
        val manifest = wide(fakeManifest()).copy(chat = ChatSpec(form, null, setOf(7)))
        val engine = FakeEngine(4100) { 300 }
        val decoder = Decoder(manifest, engine)
        val conversations = Conversations(decoder, tokenizer, manifest)
        assertEquals(setOf(7) + manifest.tokens.eos, conversations.stop)
        val short = manifest.generation.copy(maxNewTokens = 2)
        fun sampler() = Sampler(4100, SamplingOptions()) { 0.0 }
        val first = conversations.answer(listOf(user("a b c")), sampler(), short) { _, _ -> }
        assertEquals(AnswerFacts(0, 0), first)
        val asked = conversations.ids(listOf(user("a b c")))
        val again = conversations.answer(listOf(user("a b c")), sampler(), short) { _, _ -> }
        assertEquals("all but the last token", AnswerFacts(asked.size - 1, 0), again)
        // Somebody else uses the decoder.
        decoder.rewind()
        decoder.decode(9)
        assertEquals(0, conversations.answer(listOf(user("a b c")), sampler(), short) { _, _ -> }.reusedTokens)
        val many = listOf(user("a b c"), assistant("d e f"), user("g h i"), assistant("k"), user("l m"))
        assertEquals(4, conversations.answer(many, sampler(), short.copy(maxNewTokens = 4)) { _, _ -> }.droppedMessages)
        decoder.rewind()
        val stats = GenerationStats()
        assertEquals("in the whole cache", 0, conversations.answer(many.take(3), sampler(), short, stats = stats) { _, _ -> }.droppedMessages)
        assertEquals(2, stats.newTokens)
        assertEquals("in a shorter context", 2, conversations.answer(many.take(3), sampler(), short, contextTokens = 10) { _, _ -> }.droppedMessages)
        val long = GenerationStats()
        conversations.answer(listOf(user("a b c")), sampler(), short.copy(maxNewTokens = 50), stats = long, contextTokens = 12) { _, _ -> }
        assertEquals("one more is chosen than fits", 12 - asked.size + 1, long.newTokens)
        assertEquals(StopReason.LENGTH, long.stopReason)
        val bounded = GenerationStats()
        conversations.answer(listOf(user("a b c")), sampler(), short.copy(maxNewTokens = 50, maxLength = asked.size + 3), stats = bounded) { _, _ -> }
        assertEquals(3, bounded.newTokens)
    }

    private fun wide(manifest: Manifest): Manifest = manifest.copy(
        vocabSize = 4100,
        graphs = manifest.graphs.map { graph ->
            graph.copy(outputs = graph.outputs.map { if (it.role == Role.LOGITS) it.copy(shape = listOf(1, 1, 4100)) else it })
        },
    )

    @Test
    fun `what cannot be said as data is refused by name`() {
        val manifest = fakeManifest()
        val decoder = Decoder(manifest, FakeEngine(50))
        val none = assertFails<InvalidRequestException> { Conversations(decoder, tokenizer, manifest) }
        assertTrue(none.what.contains("has no chat template"))
        val jinja = manifest.copy(chat = ChatSpec(null, "it writes the date", setOf(2)))
        assertTrue(assertFails<InvalidRequestException> { Conversations(decoder, tokenizer, jinja) }.what.contains("it writes the date"))
        val spec = ManifestReader.chat(JsonFields.of(Json.parse("""{"declarative": false, "reason": "no", "stop": [2]}"""), "chat"))
        assertNull(spec.form)
        assertEquals("no", spec.reason)
        assertFails<ManifestException> {
            ManifestReader.chat(JsonFields.of(Json.parse("""{"declarative": true, "prefix": ""}"""), "chat"))
        }
    }

    @Test
    fun `a conversation that is none is refused`() {
        assertFails<InvalidRequestException> { chatml.spans(emptyList()) }
        assertFails<InvalidRequestException> { chatml.spans(listOf(assistant("x"))) }
        assertFails<InvalidRequestException> { chatml.spans(listOf(user("x"), user("y"))) }
        assertFails<InvalidRequestException> { chatml.spans(listOf(user("x"), assistant("y"))) }
        assertFails<InvalidRequestException> { chatml.copy(system = null).spans(listOf(ChatMessage(ChatRole.SYSTEM, "x"), user("y"))) }
    }

    @Test
    fun `a log of tokens grows and shrinks`() {
        val log = TokenLog()
        log.addAll(IntArray(1000) { it })
        log.truncate(3)
        log.add(9)
        assertArrayEquals(intArrayOf(0, 1, 2, 9), log.toArray())
        assertFails<IndexOutOfBoundsException> { log[4] }
        assertFails<IndexOutOfBoundsException> { log.truncate(5) }
    }
}
