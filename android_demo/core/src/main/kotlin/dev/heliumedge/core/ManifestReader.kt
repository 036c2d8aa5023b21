package dev.heliumedge.core

private const val SCHEMA_NAME = "helium-edge/bundle"
private const val KNOWN_MAJOR = 1
private val VERSION = Regex("([0-9]{1,4})\\.([0-9]{1,4})")
private val SAFE_PATH = Regex("[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
private val SHA256 = Regex("[0-9a-f]{64}")
private const val MAX_PATH = 255
private val BATCHED = listOf("batch", "kv_head", "slot", "head_dim")

/** From the text of a manifest to a [Manifest]; fields that are not known are ignored. */
public object ManifestReader {
    /**
     * Reads and checks a manifest; nothing else of the bundle is looked at.
     *
     * @throws ManifestException It is not readable or contradicts itself; the field is named.
     * @throws NewerBundleException A later major version.
     * @throws OlderBundleException An earlier major version.
     * @throws UnsafePathException A path that could leave the folder.
     */
    public fun parse(text: String): Manifest {
        val document = try {
            Json.parse(text)
        } catch (error: JsonException) {
            throw ManifestException("not readable as JSON: ${error.message}", error)
        }
        val root = JsonFields.of(document, "")
        checkVersion(root)
        val manifest = read(root)
        contradiction(manifest)?.let { throw ManifestException(it) }
        return manifest
    }

    private fun checkVersion(root: JsonFields) {
        if (root.textOrNull("schema") != SCHEMA_NAME) {
            throw ManifestException("not a helium-edge manifest: schema must be \"$SCHEMA_NAME\"")
        }
        val version = root.text("schema_version")
        val match = VERSION.matchEntire(version) ?: throw ManifestException("schema_version = \"$version\" is no version")
        val major = match.groupValues[1].toInt()
        if (major > KNOWN_MAJOR) {
            throw NewerBundleException(Phrase.NEWER_BUNDLE.with(version, KNOWN_MAJOR))
        }
        if (major < KNOWN_MAJOR) {
            throw OlderBundleException(Phrase.OLDER_BUNDLE.with(version, KNOWN_MAJOR))
        }
    }

    private fun read(root: JsonFields): Manifest {
        val graphs = root.objects("graphs").map(::graph)
        if (graphs.isEmpty()) root.fail("graphs", "is empty")
        val classifier = graphs.all { it.phase == Phase.CLASSIFY }
        val tokenizer = root.obj("tokenizer")
        return Manifest(
            schemaVersion = root.text("schema_version"),
            name = root.text("name").ifEmpty { root.fail("name", "is empty") },
            runtime = root.text("runtime"),
            target = root.obj("target").text("name"),
            vocabSize = root.obj("model").int("vocab_size", atLeast = 1),
            tokens = tokens(root.obj("tokens")),
            tokenizerFile = if (tokenizer.has("file")) path(tokenizer, "file") else "tokenizer.json",
            tokenizerKind = tokenizer.text("kind"),
            graphs = graphs,
            cache = if (classifier) null else cache(root.obj("cache")),
            allLogits = !classifier && allLogits(root),
            prefillLen = if (classifier) 0 else root.int("prefill_len", atLeast = 1),
            cacheLen = if (classifier) 0 else root.int("cache_len", atLeast = 1),
            generation = generation(root.obj("generation")),
            memory = memory(root.obj("memory")),
            golden = root.objOrNull("golden")?.let(::golden),
            output = root.objOrNull("head")?.let(::output),
            files = root.objects("files").map(::file),
            runtimeMinVersion = root.textOrNull("runtime_min_version"),
            chat = root.objOrNull("chat")?.let(::chat),
            source = root.objOrNull("source").let { SourceSpec(it?.textOrNull("checkpoint"), it?.textOrNull("license")) },
        )
    }

    private fun allLogits(root: JsonFields): Boolean = when (root.text("logits")) {
        "last" -> false
        "all" -> true
        else -> root.fail("logits", "must be \"last\" or \"all\"")
    }

    private fun graph(entry: JsonFields): GraphSpec {
        val phase = entry.text("phase")
        return GraphSpec(
            file = path(entry, "file"),
            method = entry.nullableText("method"),
            phase = Phase.values().firstOrNull { it.id == phase } ?: entry.fail("phase", "= \"$phase\" is not known"),
            tokens = entry.nullableInt("tokens", atLeast = 1),
            cacheLen = entry.nullableInt("cache_len", atLeast = 1),
            inputs = entry.objects("inputs").map(::tensor),
            outputs = entry.objects("outputs").map(::tensor),
            freeRows = entry.has("free_rows") && entry.flag("free_rows"),
            plannedOutputs = entry.has("planned_outputs") && entry.flag("planned_outputs"),
        )
    }

    private fun tensor(entry: JsonFields): TensorSpec {
        val role = entry.text("role")
        val shape = entry.items("shape").map { dimension ->
            when {
                dimension is Json.Str -> -1L
                dimension is Json.Num && (dimension.text.toLongOrNull() ?: 0) > 0 -> dimension.text.toLong()
                else -> entry.fail("shape", "must hold whole numbers above 0 and names")
            }
        }
        return TensorSpec(entry.text("name"), Role.values().firstOrNull { it.id == role } ?: Role.OTHER, dtype(entry), shape)
    }

    private fun dtype(entry: JsonFields): Dtype {
        val name = entry.text("dtype")
        return Dtype.values().firstOrNull { it.id == name } ?: entry.fail("dtype", "= \"$name\" is not known to this app")
    }

    private fun tokens(entry: JsonFields): Tokens =
        Tokens(entry.nullableInt("bos"), entry.ints("eos").toSet(), entry.nullableInt("pad"), addBos = entry.flag("add_bos"))

    private fun cache(entry: JsonFields): CacheSpec {
        val layout = entry.items("layout").map { (it as? Json.Str)?.value }
        val batched = layout == BATCHED
        if (!batched && layout != BATCHED.drop(1)) entry.fail("layout", "= $layout is not known; allowed: $BATCHED")
        val shape = entry.ints("shape")
        if (shape.size != layout.size || shape.any { it < 1 } || (batched && shape[0] != 1)) {
            entry.fail("shape", "= ${shape.toList()} does not fit the layout $layout")
        }
        val update = entry.text("update")
        val (kvHeads, slots, headDim) = shape.takeLast(3)
        val spec = CacheSpec(
            update = CacheUpdate.values().firstOrNull { it.id == update } ?: entry.fail("update", "= \"$update\" is not known"),
            layers = entry.int("layers", atLeast = 1),
            kvHeads = kvHeads,
            slots = slots,
            headDim = headDim,
            batched = batched,
            dtype = dtype(entry),
        )
        if ((entry.textOrNull("keys") ?: "post_rope") != "post_rope") entry.fail("keys", "must be \"post_rope\"")
        if (entry.count("bytes_per_token") != spec.bytesPerToken || entry.count("total_bytes") != spec.bytesPerToken * slots) {
            entry.fail("bytes_per_token", "and total_bytes do not fit the shape, which gives ${spec.bytesPerToken} per token")
        }
        if (spec.bufferBytes > Int.MAX_VALUE) entry.fail("shape", "needs buffers above 2 GiB, more than a device can map")
        return spec
    }

    internal fun generation(entry: JsonFields): GenerationDefaults {
        val temperature = if (entry.has("temperature")) entry.number("temperature") else 1.0
        if (temperature < 0) entry.fail("temperature", "is out of range; allowed: 0 and above")
        val topP = if (entry.has("top_p")) entry.number("top_p") else 1.0
        if (topP <= 0 || topP > 1) entry.fail("top_p", "is out of range; allowed: above 0, up to 1")
        val minP = if (entry.has("min_p")) entry.number("min_p") else 0.0
        if (minP < 0 || minP > 1) entry.fail("min_p", "is out of range; allowed: 0 to 1")
        val penalty = if (entry.has("repetition_penalty")) entry.number("repetition_penalty") else 1.0
        if (penalty <= 0) entry.fail("repetition_penalty", "is out of range; allowed: above 0")
        return GenerationDefaults(
            doSample = entry.has("do_sample") && entry.flag("do_sample"),
            temperature = temperature,
            topK = entry.intOrNull("top_k") ?: 0,
            topP = topP,
            maxNewTokens = entry.intOrNull("max_new_tokens", atLeast = 1) ?: 256,
            minP = minP,
            repetitionPenalty = penalty,
            noRepeatNgramSize = entry.intOrNull("no_repeat_ngram_size") ?: 0,
            suppressTokens = if (entry.has("suppress_tokens")) entry.ints("suppress_tokens").toList() else emptyList(),
            stopStrings = if (entry.has("stop_strings")) texts(entry, "stop_strings") else emptyList(),
            maxLength = entry.intOrNull("max_length", atLeast = 1),
        )
    }

    internal fun chat(entry: JsonFields): ChatSpec {
        val stop = if (entry.has("stop")) entry.ints("stop").toSet() else emptySet()
        if (!entry.flag("declarative")) return ChatSpec(null, entry.textOrNull("reason") ?: "no reason is given", stop)
        val form = ChatForm(
            prefix = entry.text("prefix"),
            system = entry.objOrNull("system")?.let(::role),
            withoutSystem = entry.text("without_system"),
            skipEmptySystem = entry.flag("skip_empty_system"),
            user = role(entry.obj("user")),
            firstUser = entry.objOrNull("first_user")?.let(::role),
            userAfterSystem = entry.objOrNull("user_after_system")?.let(::role),
            assistant = role(entry.obj("assistant")),
            generationPrompt = entry.text("generation_prompt"),
        )
        return ChatSpec(form, entry.textOrNull("reason"), stop)
    }

    private fun role(entry: JsonFields): RoleForm {
        val trim = entry.text("trim")
        val known = Trim.values().firstOrNull { it.id == trim } ?: entry.fail("trim", "= \"$trim\" is not known to this app")
        return RoleForm(entry.text("before"), entry.text("after"), known)
    }

    private fun texts(entry: JsonFields, key: String): List<String> = entry.items(key).map {
        (it as? Json.Str)?.value?.takeIf(String::isNotEmpty) ?: entry.fail(key, "must hold texts that are not empty")
    }

    private fun memory(entry: JsonFields): MemorySpec = MemorySpec(
        weights = entry.count("weights_bytes"),
        packed = entry.count("packed_bytes"),
        cache = entry.count("cache_bytes"),
        activations = entry.count("activations_bytes"),
        total = entry.count("total_bytes"),
    )

    private fun golden(entry: JsonFields): GoldenTrace {
        val greedy = entry.ints("greedy_ids")
        val margins = entry.numbers("margins")
        if (greedy.size != margins.size) entry.fail("margins", "has ${margins.size} entries, greedy_ids ${greedy.size}")
        val prompt = entry.ints("prompt_ids")
        if (prompt.isEmpty()) entry.fail("prompt_ids", "is empty")
        val top = entry.objects("top5_first").map { TopToken(it.int("id"), it.number("logit")) }
        val tolerance = entry.objOrNull("tolerances")?.run {
            val (same, other) = number("same") to number("other")
            if (same < 0) fail("same", "is $same, less than 0")
            if (other < 0) fail("other", "is $other, less than 0")
            other
        }
        return GoldenTrace(entry.text("prompt"), prompt, greedy, margins, top, tolerance)
    }

    private fun output(entry: JsonFields): OutputSpec {
        val labels = entry.items("labels").map { (it as? Json.Str)?.value ?: entry.fail("labels", "must hold names") }
        val kind = entry.text("kind")
        val task = Task.values().firstOrNull { it.id == kind && it != Task.LANGUAGE_MODEL } ?: entry.fail("kind", "= \"$kind\" is not known to this app")
        return OutputSpec(task, labels, entry.textOrNull("problem_type"))
    }

    private fun file(entry: JsonFields): FileSpec {
        val sha256 = entry.text("sha256")
        if (!SHA256.matches(sha256)) entry.fail("sha256", "must be 64 hexadecimal digits")
        return FileSpec(path(entry, "path"), entry.count("bytes"), sha256)
    }

    private fun path(entry: JsonFields, key: String): String {
        val path = entry.text(key)
        if (path.length > MAX_PATH) entry.fail(key, "has ${path.length} characters; allowed: $MAX_PATH")
        if (!SAFE_PATH.matches(path)) {
            throw UnsafePathException("$MANIFEST_NAME: $key = \"${path.take(60)}\" is no plain relative path inside the bundle")
        }
        return path
    }
}

/** What no field says alone: the first section that does not fit the others, or null. */
private fun contradiction(manifest: Manifest): String? {
    val seen = HashSet<String>()
    for (entry in manifest.files) {
        // Lower case, because storage may take both names for one.
        if (!seen.add(entry.path.lowercase())) return "files lists \"${entry.path}\" twice"
        if (entry.path.lowercase() == MANIFEST_NAME) return "files lists \"${entry.path}\", the manifest itself"
    }
    val listed = manifest.files.map { it.path }.toSet()
    manifest.graphs.firstOrNull { it.file !in listed }?.let { return "graphs names \"${it.file}\", which is not among the files" }
    if (manifest.tokenizerFile !in listed) return "tokenizer.file = \"${manifest.tokenizerFile}\" is not among the files"
    val keys = manifest.graphs.map { Triple(it.phase, it.tokens, it.cacheLen) }
    if (keys.toSet().size != keys.size) return "graphs has two entries of one phase, tokens and cache_len"
    val widest = manifest.graphs.filter { it.phase == Phase.PREFILL }.mapNotNull { it.tokens }.maxOrNull()
    if (widest != null && widest != manifest.prefillLen) {
        return "prefill_len = ${manifest.prefillLen}, but the prefill graphs take up to $widest tokens"
    }
    if ((manifest.cache != null) != (manifest.task == Task.LANGUAGE_MODEL)) return "a bundle has either a cache or a head"
    return rowsContradiction(manifest) ?: cacheContradiction(manifest) ?: idOutsideVocabulary(manifest)
}

private fun rowsContradiction(manifest: Manifest): String? = manifest.graphs.firstOrNull { graph ->
    graph.freeRows && (graph.input(Role.LAST_INDEX)?.shape != listOf(1L) || graph.output(Role.LOGITS)?.shape?.take(2) != listOf(1L, 1L))
}?.let { "${it.label} has free_rows, but no last_index of shape [1] with logits of shape [1, 1, V]" }

private fun cacheContradiction(manifest: Manifest): String? {
    val cache = manifest.cache ?: return null
    if (manifest.cacheLen != cache.slots) return "cache_len = ${manifest.cacheLen} does not fit cache.shape with ${cache.slots} slots"
    return manifest.graphs.firstOrNull { (it.cacheLen ?: 0) > cache.slots }?.let { "${it.label} takes a longer cache than cache.shape" }
}

private fun idOutsideVocabulary(manifest: Manifest): String? {
    val golden = manifest.golden
    val ids = sequence {
        yieldAll(listOfNotNull(manifest.tokens.bos, manifest.tokens.pad))
        yieldAll(manifest.tokens.eos)
        yieldAll(manifest.chat?.stop.orEmpty())
        if (golden != null) {
            yieldAll(golden.promptIds.asSequence())
            yieldAll(golden.greedyIds.asSequence())
            yieldAll(golden.top5First.map { it.id })
        }
    }
    return ids.firstOrNull { it >= manifest.vocabSize }?.let { "the id $it is outside the vocabulary of ${manifest.vocabSize}" }
}
