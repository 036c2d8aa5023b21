package dev.heliumedge.core

import java.io.File

private const val MAX_TOKENIZER_BYTES = 64L shl 20

/** Ids without a piece that a small vocabulary may have. */
private const val MAX_HOLES = 1 shl 16

/** A token that is found in the raw text, before anything else. */
internal class AddedToken(
    val id: Int,
    val content: String,
    val singleWord: Boolean,
    val special: Boolean,
    /** Whether it takes the blanks before it, and those after it. */
    val stripLeft: Boolean,
    val stripRight: Boolean,
    /** Whether it is found in normalized text, in its own normalized form. */
    val normalized: Boolean,
)

/** Which segments of a text get [TokenizerFile.prepend]. */
internal enum class Prepending { EACH, EACH_WITHOUT, FIRST_WITHOUT }

/**
 * The content of a `tokenizer.json`.
 *
 * Of the SentencePiece kinds: Unigram or BPE with byte fallback, a text put in front and blanks replaced, split at one
 * string, and a decoder that undoes it. Of the byte-level kind: BPE over the bytes of words that an expression finds.
 */
internal class TokenizerFile(
    val pieces: Array<String>,
    /** Of Unigram; empty for BPE. */
    val scores: DoubleArray,
    /** Of BPE; null for Unigram. */
    val merges: BpeMerges?,
    val unknownId: Int?,
    val byteFallback: Boolean,
    val addedTokens: List<AddedToken>,
    /** Whether text is brought to Unicode's form NFC, before anything is put in front or replaced. */
    val composes: Boolean,
    /** Put in front of segments of text, before [replacements] unless those that begin with it are left as they are. */
    val prepend: String,
    val prepending: Prepending,
    val replacements: List<Pair<String, String>>,
    /** Strings at which normalized text is cut; they stay as pieces of their own. */
    val splitAt: String?,
    /** Whether text is cut before each [splitAt], in place of around runs of it. */
    val splitsBefore: Boolean,
    /** Of the byte-level kind; [splitAt] is then null. */
    val byteLevel: ByteLevelCutting?,
    val idsBefore: IntArray,
    val idsAfter: IntArray,
    val decoderReplacements: List<Pair<String, String>>,
    /** Blanks that are taken from the start of decoded text. */
    val stripStart: Int,
    /** Whether the decoder reads pieces as the bytes that they spell. */
    val decodesBytes: Boolean,
) {
    companion object {
        /** Reads a file; throws [TokenizerException] for what is damaged or not implemented, and names it. */
        fun read(file: File): TokenizerFile {
            if (!file.isFile) throw MissingFileException("${file.name} is missing")
            if (file.length() > MAX_TOKENIZER_BYTES) throw TokenizerException("${file.name}: ${file.length()} bytes is no tokenizer")
            return parse(readText(file), file.name)
        }

        fun parse(text: String, name: String): TokenizerFile = try {
            TokenizerParser(JsonFields.of(Json.parse(text), "")).file()
        } catch (error: JsonException) {
            throw TokenizerException("$name: not readable as JSON: ${error.message}", error)
        } catch (error: ManifestException) {
            // The fields are read by the same code as those of the manifest; only the name of the file differs.
            throw TokenizerException("$name: ${error.what.removePrefix("$MANIFEST_NAME: ")}", error)
        }
    }
}

private class TokenizerParser(private val root: JsonFields) {
    fun file(): TokenizerFile {
        val model = root.obj("model")
        // Files as old as that of GPT-2 do not name the type.
        val vocabulary = when (val type = model.textOrNull("type") ?: "BPE".takeIf { model.has("merges") }) {
            "Unigram" -> unigram(model)
            "BPE" -> bpe(model)
            else -> model.fail("type", "= $type is not implemented; allowed: Unigram, BPE")
        }
        val normalizer = normalizer()
        val cutting = cutting()
        if (cutting.prepend != null && normalizer.prepend.isNotEmpty()) {
            root.fail("pre_tokenizer", "puts a text in front, as the normalizer does")
        }
        val template = template()
        val decoder = decoder()
        return TokenizerFile(
            vocabulary.pieces, vocabulary.scores, vocabulary.merges, vocabulary.unknown,
            byteFallback = model.has("byte_fallback") && model.flag("byte_fallback"),
            addedTokens = if (root.has("added_tokens")) root.objects("added_tokens").map(::added) else emptyList(),
            composes = normalizer.composes,
            prepend = cutting.prepend ?: normalizer.prepend, prepending = cutting.prepending,
            replacements = normalizer.replacements + cutting.replacements,
            splitAt = cutting.splitAt, splitsBefore = cutting.splitsBefore, byteLevel = cutting.byteLevel,
            idsBefore = template.first, idsAfter = template.second,
            decoderReplacements = decoder.first, stripStart = decoder.second,
            decodesBytes = decodesBytes(),
        )
    }

    private class Vocabulary(val pieces: Array<String>, val scores: DoubleArray, val merges: BpeMerges?, val unknown: Int?)

    private fun unigram(model: JsonFields): Vocabulary {
        val vocabulary = model.items("vocab")
        val pieces = Array(vocabulary.size) { "" }
        val scores = DoubleArray(vocabulary.size)
        vocabulary.forEachIndexed { id, entry ->
            val pair = (entry as? Json.Arr)?.items
            pieces[id] = (pair?.getOrNull(0) as? Json.Str)?.value ?: model.fail("vocab[$id]", "must be a piece and its score")
            scores[id] = (pair.getOrNull(1) as? Json.Num)?.text?.toDouble() ?: model.fail("vocab[$id]", "must be a piece and its score")
        }
        val unknown = model.intOrNull("unk_id")
        if (unknown != null && unknown >= pieces.size) model.fail("unk_id", "is outside the vocabulary")
        return Vocabulary(pieces, scores, null, unknown)
    }

    private fun bpe(model: JsonFields): Vocabulary {
        for (key in listOf("dropout", "continuing_subword_prefix", "end_of_word_suffix")) {
            if (model.has(key) && model.textOrNull(key) != "") model.fail(key, "is not implemented")
        }
        val vocabulary = model.obj("vocab")
        val ids = HashMap<String, Int>()
        for (piece in vocabulary.keys) ids[piece] = vocabulary.int(piece)
        val size = (ids.values.maxOrNull() ?: -1) + 1
        // Ids without a piece read as nothing; far more of them than pieces are a damaged file.
        if (size > MAX_HOLES + 2 * ids.size) model.fail("vocab", "has an id of ${size - 1} among ${ids.size} pieces")
        val pieces = Array(size) { "" }
        for ((piece, id) in ids) pieces[id] = piece
        val merges = model.items("merges")
        val table = BpeMerges(merges.size, fusesUnknown = model.flagOr("fuse_unk"), ignoredForWhole = model.flagOr("ignore_merges"))
        merges.forEachIndexed { rank, entry ->
            val pair = when (entry) {
                is Json.Str -> entry.value.split(" ")
                is Json.Arr -> entry.items.map { (it as? Json.Str)?.value }
                else -> emptyList()
            }
            if (pair.size != 2) model.fail("merges[$rank]", "must be two pieces")
            val (left, right, both) = listOf(pair[0], pair[1], "${pair[0]}${pair[1]}").map { ids[it] }
            if (left == null || right == null || both == null) model.fail("merges[$rank]", "joins pieces that are not in the vocabulary")
            table.add(left, right, rank, both)
        }
        val unknown = model.textOrNull("unk_token")
        return Vocabulary(pieces, DoubleArray(0), table, unknown?.let { ids[it] ?: model.fail("unk_token", "is not in the vocabulary") })
    }

    private fun JsonFields.flagOr(key: String): Boolean = has(key) && flag(key)

    private fun added(entry: JsonFields): AddedToken {
        val content = entry.text("content")
        if (content.isEmpty()) entry.fail("content", "is empty")
        return AddedToken(
            entry.int("id"), content, entry.flagOr("single_word"), entry.flag("special"),
            entry.flagOr("lstrip"), entry.flagOr("rstrip"), entry.flagOr("normalized"),
        )
    }

    /** Steps of a section that may be one step, a sequence of them, or null. */
    private fun steps(section: String, list: String): List<JsonFields> {
        val outer = root.objOrNull(section) ?: return emptyList()
        return if (outer.text("type") == "Sequence") outer.objects(list) else listOf(outer)
    }

    private class Changes(val composes: Boolean, val prepend: String, val replacements: List<Pair<String, String>>)

    private fun normalizer(): Changes {
        var composes = false
        var prepend = ""
        val replacements = ArrayList<Pair<String, String>>()
        for (step in steps("normalizer", "normalizers")) {
            val first = prepend.isEmpty() && replacements.isEmpty()
            when (val type = step.text("type")) {
                "NFC" -> if (first) composes = true else step.fail("type", "= NFC is allowed first")
                "Prepend" -> {
                    if (!first) step.fail("type", "= Prepend is allowed once, before any Replace")
                    prepend = step.text("prepend")
                }
                "Replace" -> replacements.add(step.pattern() to step.text("content"))
                else -> step.fail("type", "= $type is not implemented; allowed: NFC, Prepend, Replace")
            }
        }
        return Changes(composes, prepend, replacements)
    }

    private class Cutting(
        val splitAt: String? = null,
        val splitsBefore: Boolean = false,
        val prepend: String? = null,
        val prepending: Prepending = Prepending.EACH,
        val replacements: List<Pair<String, String>> = emptyList(),
        val byteLevel: ByteLevelCutting? = null,
    )

    private fun cutting(): Cutting {
        val steps = steps("pre_tokenizer", "pretokenizers")
        val step = steps.firstOrNull() ?: return Cutting()
        if (steps.last().text("type") == "ByteLevel") return Cutting(byteLevel = byteLevel(steps))
        if (steps.size > 1) {
            step.fail("type", "is one of several; allowed: one Split or Metaspace, or Splits and ByteLevel")
        }
        when (val type = step.text("type")) {
            "Metaspace" -> return metaspace(step)
            "Split" -> Unit
            else -> step.fail("type", "= $type is not implemented; allowed: Split, Metaspace, ByteLevel")
        }
        if (step.text("behavior") != "Contiguous" || step.flag("invert")) step.fail("behavior", "must be Contiguous, not inverted")
        return Cutting(splitAt = step.pattern())
    }

    private fun byteLevel(steps: List<JsonFields>): ByteLevelCutting {
        val last = steps.last()
        return ByteLevelCutting(
            steps.dropLast(1).map(::split), last.flag("add_prefix_space"), !last.has("use_regex") || last.flag("use_regex"),
        )
    }

    private fun split(step: JsonFields): Split = when (val type = step.text("type")) {
        "Digits" -> Split(Expression(if (step.flag("individual_digits")) "\\p{N}" else "\\p{N}+"), keepsRest = true)
        "Split" -> Split(expression(step), keepsRest = !dropsRest(step))
        else -> step.fail("type", "= $type is not implemented before ByteLevel; allowed: Split, Digits")
    }

    private fun dropsRest(step: JsonFields): Boolean {
        val behavior = step.text("behavior")
        val inverted = step.flag("invert")
        if (!(behavior == "Isolated" && !inverted) && !(behavior == "Removed" && inverted)) {
            step.fail("behavior", "= $behavior is not implemented before ByteLevel; allowed: Isolated, or Removed and inverted")
        }
        return inverted
    }

    private fun expression(step: JsonFields): Expression {
        val source = step.obj("pattern").text("Regex")
        return try {
            Expression(source)
        } catch (error: ExpressionException) {
            step.fail("pattern", "= ${source.take(60)} ${error.message}")
        }
    }

    private fun metaspace(step: JsonFields): Cutting {
        val mark = step.text("replacement")
        val prepending = when (val scheme = step.textOrNull("prepend_scheme") ?: "always") {
            "always" -> Prepending.EACH_WITHOUT
            "first" -> Prepending.FIRST_WITHOUT
            "never" -> null
            else -> step.fail("prepend_scheme", "= $scheme is not implemented; allowed: always, first, never")
        }
        val splits = !step.has("split") || step.flag("split")
        return Cutting(
            if (splits) mark else null, splits, prepending?.let { mark }, prepending ?: Prepending.EACH, listOf(" " to mark),
        )
    }

    private fun JsonFields.pattern(): String {
        val pattern = obj("pattern").textOrNull("String") ?: fail("pattern", "must be a String; a Regex is not implemented")
        return pattern.ifEmpty { fail("pattern", "is empty") }
    }

    private fun template(): Pair<IntArray, IntArray> {
        // ByteLevel moves offsets alone.
        val processors = steps("post_processor", "processors").filter { it.text("type") != "ByteLevel" }
        val processor = processors.firstOrNull() ?: return IntArray(0) to IntArray(0)
        if (processors.size > 1) processor.fail("type", "is one of several; allowed: one TemplateProcessing")
        val type = processor.text("type")
        if (type != "TemplateProcessing") {
            processor.fail("type", "= $type is not implemented; allowed: TemplateProcessing, ByteLevel")
        }
        val known = processor.obj("special_tokens")
        val before = ArrayList<Int>()
        val after = ArrayList<Int>()
        var seen = false
        for (step in processor.objects("single")) {
            val special = step.objOrNull("SpecialToken")
            when {
                special != null -> (if (seen) after else before).addAll(known.obj(special.text("id")).ints("ids").toList())
                seen -> step.fail("Sequence", "stands twice")
                else -> seen = true
            }
        }
        if (!seen) processor.fail("single", "has no place for the text")
        return before.toIntArray() to after.toIntArray()
    }

    private fun decodesBytes(): Boolean = steps("decoder", "decoders").map { it.text("type") } == listOf("ByteLevel")

    private fun decoder(): Pair<List<Pair<String, String>>, Int> {
        val steps = steps("decoder", "decoders")
        val names = steps.map { it.text("type") }
        if (decodesBytes()) return emptyList<Pair<String, String>>() to 0
        val replaced = steps.takeWhile { it.text("type") == "Replace" }
        val rest = names.drop(replaced.size)
        if (rest != listOf("ByteFallback", "Fuse", "Strip") && rest != listOf("ByteFallback", "Fuse")) {
            val allowed = "Replace, ByteFallback, Fuse, Strip; or ByteLevel"
            root.fail("decoder", "= $names is not implemented; allowed: $allowed")
        }
        val strip = steps.last().takeIf { it.text("type") == "Strip" }
        if (strip != null && (strip.text("content") != " " || strip.int("stop") != 0)) strip.fail("content", "must be a blank, at the start")
        return replaced.map { it.pattern() to it.text("content") } to (strip?.int("start") ?: 0)
    }
}
