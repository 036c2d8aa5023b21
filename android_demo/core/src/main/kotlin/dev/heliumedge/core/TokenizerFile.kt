package dev.heliumedge.core

import java.io.File

private const val MAX_TOKENIZER_BYTES = 64L shl 20

/** A token that is found in the raw text, before anything else. */
internal class AddedToken(val id: Int, val content: String, val singleWord: Boolean, val special: Boolean)

/**
 * The content of a `tokenizer.json` of the kind that every Helium has: Unigram with byte fallback, a text put in
 * front and blanks replaced, split at one string, and a decoder that undoes it.
 */
internal class TokenizerFile(
    val pieces: Array<String>,
    val scores: DoubleArray,
    val unknownId: Int?,
    val byteFallback: Boolean,
    val addedTokens: List<AddedToken>,
    /** Put in front of each segment of text, before [replacements]. */
    val prepend: String,
    val replacements: List<Pair<String, String>>,
    /** Strings at which normalized text is cut; they stay as pieces of their own. */
    val splitAt: String?,
    val idsBefore: IntArray,
    val idsAfter: IntArray,
    val decoderReplacements: List<Pair<String, String>>,
    /** Blanks that are taken from the start of decoded text. */
    val stripStart: Int,
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
        if (model.textOrNull("type") != "Unigram") model.fail("type", "= ${model.textOrNull("type")} is not implemented; allowed: Unigram")
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
        val normalizer = normalizer()
        val template = template()
        val decoder = decoder()
        return TokenizerFile(
            pieces, scores, unknown,
            byteFallback = model.has("byte_fallback") && model.flag("byte_fallback"),
            addedTokens = if (root.has("added_tokens")) root.objects("added_tokens").map(::added) else emptyList(),
            prepend = normalizer.first, replacements = normalizer.second,
            splitAt = splitAt(),
            idsBefore = template.first, idsAfter = template.second,
            decoderReplacements = decoder.first, stripStart = decoder.second,
        )
    }

    private fun added(entry: JsonFields): AddedToken {
        for (key in listOf("lstrip", "rstrip", "normalized")) {
            if (entry.has(key) && entry.flag(key)) entry.fail(key, "= true is not implemented")
        }
        val content = entry.text("content")
        if (content.isEmpty()) entry.fail("content", "is empty")
        return AddedToken(entry.int("id"), content, entry.has("single_word") && entry.flag("single_word"), entry.flag("special"))
    }

    /** Steps of a section that may be one step, a sequence of them, or null. */
    private fun steps(section: String, list: String): List<JsonFields> {
        val outer = root.objOrNull(section) ?: return emptyList()
        return if (outer.text("type") == "Sequence") outer.objects(list) else listOf(outer)
    }

    private fun normalizer(): Pair<String, List<Pair<String, String>>> {
        var prepend = ""
        val replacements = ArrayList<Pair<String, String>>()
        for (step in steps("normalizer", "normalizers")) {
            when (val type = step.text("type")) {
                "Prepend" -> if (prepend.isEmpty() && replacements.isEmpty()) prepend = step.text("prepend") else step.fail("type", "= Prepend is allowed once, first")
                "Replace" -> replacements.add(step.pattern() to step.text("content"))
                else -> step.fail("type", "= $type is not implemented; allowed: Prepend, Replace")
            }
        }
        return prepend to replacements
    }

    private fun splitAt(): String? {
        val steps = steps("pre_tokenizer", "pretokenizers")
        val step = steps.firstOrNull() ?: return null
        if (steps.size > 1) step.fail("type", "is one of several; allowed: one Split")
        if (step.text("type") != "Split") step.fail("type", "= ${step.text("type")} is not implemented; allowed: Split")
        if (step.text("behavior") != "Contiguous" || step.flag("invert")) step.fail("behavior", "must be Contiguous, not inverted")
        return step.pattern()
    }

    private fun JsonFields.pattern(): String {
        val pattern = obj("pattern").textOrNull("String") ?: fail("pattern", "must be a String; a Regex is not implemented")
        return pattern.ifEmpty { fail("pattern", "is empty") }
    }

    private fun template(): Pair<IntArray, IntArray> {
        val processor = root.objOrNull("post_processor") ?: return IntArray(0) to IntArray(0)
        if (processor.text("type") != "TemplateProcessing") {
            processor.fail("type", "= ${processor.text("type")} is not implemented; allowed: TemplateProcessing")
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

    private fun decoder(): Pair<List<Pair<String, String>>, Int> {
        val steps = steps("decoder", "decoders")
        val names = steps.map { it.text("type") }
        val replaced = steps.takeWhile { it.text("type") == "Replace" }
        val rest = names.drop(replaced.size)
        if (rest != listOf("ByteFallback", "Fuse", "Strip") && rest != listOf("ByteFallback", "Fuse")) {
            root.fail("decoder", "= $names is not implemented; allowed: Replace, ByteFallback, Fuse, Strip")
        }
        val strip = steps.last().takeIf { it.text("type") == "Strip" }
        if (strip != null && (strip.text("content") != " " || strip.int("stop") != 0)) strip.fail("content", "must be a blank, at the start")
        return replaced.map { it.pattern() to it.text("content") } to (strip?.int("start") ?: 0)
    }
}
