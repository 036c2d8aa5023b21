package dev.heliumedge.core

import org.junit.Assert.assertEquals

/** Generates a text of `generations.json`, and holds every id and character of it against the Python host's. */
fun assertGenerated(case: Case, bundle: BundleFolder, decoder: Decoder) {
    val tokenizer = Tokenizer.open(bundle.file(bundle.manifest.tokenizerFile))
    val ids = tokenizer.encode(case.text("prompt"))
    assertEquals(case.ints("prompt_ids"), ids.toList())
    val uniforms = case.doubles("uniforms").iterator()
    val options = SamplingOptions(
        case.double("temperature"), case.int("top_k"), case.double("top_p"), case.double("min_p"),
        case.double("repetition_penalty"), case.int("no_repeat_ngram_size"), case.ints("suppress_tokens"),
    )
    val sampler = Sampler(decoder.vocabSize, options) { uniforms.next() }
    val chosen = ArrayList<Int>()
    val text = StringBuilder()
    decoder.rewind()
    val stats = Generation(decoder, tokenizer, bundle.manifest.tokens.eos).run(ids, sampler, 40) { id, piece ->
        if (id != Generation.NO_TOKEN) chosen.add(id)
        text.append(piece)
    }
    assertEquals(case.text("prompt"), case.ints("ids"), chosen)
    assertEquals(case.text("text"), text.toString())
    assertEquals(case.text("stop"), stats.stopReason!!.name.lowercase())
}
