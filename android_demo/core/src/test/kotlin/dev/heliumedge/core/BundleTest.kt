package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.file.Files

class BundleTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private fun copy(): File {
        val folder = File(temporary.root, "bundle")
        Vectors.bundle("in_place").copyRecursively(folder)
        return folder
    }

    @Test
    fun `the exported bundle opens and verifies`() {
        val bundle = BundleFolder.open(Vectors.bundle("in_place"))
        val steps = ArrayList<Long>()
        assertTrue(bundle.verify { done, _ -> steps.add(done) })
        assertEquals(bundle.manifest.totalBytes, steps.last())
        assertEquals(steps.sorted(), steps)
        val cache = bundle.manifest.cache!!
        assertEquals(listOf(CacheUpdate.IN_PLACE, 6, 2, 1024, 64), listOf(cache.update, cache.layers, cache.kvHeads, cache.slots, cache.headDim))
        assertEquals(setOf(Phase.PREFILL, Phase.DECODE, Phase.ANY), bundle.manifest.graphs.map { it.phase }.toSet())
    }

    @Test
    fun `a bundle that was opened stays the one that was read`() {
        val folder = copy()
        val bundle = BundleFolder.open(folder)
        val manifest = bundle.file(MANIFEST_NAME)
        val known = sha256(manifest) { true }
        assertEquals(known, bundle.manifestSha256())
        manifest.writeText(ManifestSeal.seal(manifest.readText().replaceFirst("\"cache_len\": 1024", "\"cache_len\":  1024")))
        assertEquals("another one takes its place", known, bundle.manifestSha256())
        assertTrue(BundleFolder.open(folder).manifestSha256() != known)
        assertTrue(manifest.delete())
        assertEquals("a push that begins takes it away", known, bundle.manifestSha256())
    }

    @Test
    fun `manifests good and bad get the verdict of the reference`() {
        val cases = Vectors.cases("manifests.json")
        assertTrue(cases.size > 100)
        for (case in cases) {
            val found = try {
                val task = ManifestReader.parse(case.text("text")).task
                assertEquals(case.text("what"), case.text("task"), task.id)
                "ok"
            } catch (error: HeliumException) {
                when (error) {
                    is NewerBundleException -> "newer"
                    is OlderBundleException -> "older"
                    is UnsafePathException -> "path"
                    is ManifestException -> "manifest"
                    else -> throw AssertionError(case.text("what"), error)
                }
            }
            assertEquals(case.text("what"), case.text("verdict"), found)
        }
    }

    @Test
    fun `every kind of bad bundle has a message of its own`() {
        val messages = listOf(
            assertFails<NotABundleException> { BundleFolder.open(File("no such folder")) },
            assertFails<NotABundleException> { BundleFolder.open(temporary.root) },
            broken<MissingFileException> { File(it, "weights.bin").delete() },
            broken<DamagedFileException> { folder -> File(folder, "weights.bin").let { it.writeBytes(it.readBytes().dropLast(1).toByteArray()) } },
            broken<DamagedFileException> { File(it, "tokenizer.json").appendText(" ") },
            broken<DamagedFileException> { flip(File(it, "weights.bin"), 4_000_000) },
            broken<NewerBundleException> { ofVersion(it, "2.0") },
            broken<OlderBundleException> { ofVersion(it, "0.3") },
            broken<UnsafePathException> { edit(it, "\"path\": \"weights.bin\"", "\"path\": \"../weights.bin\"") },
            broken<ManifestException> { edit(it, "\"layers\": 6", "\"layers\": 5") },
            broken<ManifestException> { File(it, MANIFEST_NAME).writeText("{") },
            broken<DamagedFileException> { edit(it, "\"name\": \"helium-tiny", "\"name\": \"Helium-tiny") },
            broken<DamagedFileException> { edit(it, "\n  \"manifest_sha256\"", "\n  \"other_sha256\"") },
        ).map { it.message }
        assertEquals("each its own", messages.size, messages.toSet().size)
        for ((version, phrase) in listOf("2.0" to Phrase.NEWER_BUNDLE, "0.3" to Phrase.OLDER_BUNDLE)) {
            val said = broken<HeliumException> { ofVersion(it, version) }.said
            assertEquals(phrase to listOf<Any>(version, 1), said.phrase to said.values)
        }
        assertTrue(messages.toString(), messages.all { it!!.lines().size == 1 && it.length < 250 })
    }

    private inline fun <reified T : HeliumException> broken(damage: (File) -> Unit): T {
        val folder = copy()
        try {
            damage(folder)
            return assertFails<T> { BundleFolder.open(folder).verify() }
        } finally {
            folder.deleteRecursively()
        }
    }

    private fun flip(file: File, at: Int) = file.writeBytes(file.readBytes().also { it[at] = (it[at].toInt() xor 1).toByte() })

    private fun ofVersion(folder: File, version: String) {
        val file = File(folder, MANIFEST_NAME)
        val changed = file.readText().replace(Regex("\"schema_version\": \"[0-9.]+\""), "\"schema_version\": \"$version\"")
        file.writeText(changed)
    }

    private fun edit(folder: File, from: String, to: String) {
        val file = File(folder, MANIFEST_NAME)
        val text = file.readText()
        assertTrue(from, from in text)
        file.writeText(text.replaceFirst(from, to))
    }

    @Test
    fun `a manifest seals itself as the exporter does`() {
        val text = File(Vectors.bundle("in_place"), MANIFEST_NAME).readText()
        assertEquals(text, ManifestSeal.seal(text))
        assertEquals(null, ManifestSeal.problem(text, "1.1"))
        val unsealed = text.replace(Regex("\n  \"manifest_sha256\": \"[0-9a-f]*\","), "")
        assertEquals("required since 1.1", null, ManifestSeal.problem(unsealed, "1.0"))
        assertTrue(ManifestSeal.problem(unsealed, "1.1") != null)
    }

    @Test
    fun `shapes are those of one row of logits, and any number may be asked for where rows are free`() {
        val text = File(Vectors.bundle("in_place"), MANIFEST_NAME).readText()
        val manifest = ManifestReader.parse(text)
        val graph = manifest.graph(Phase.ANY)!!
        assertEquals(listOf(true, false, false), listOf(Phase.ANY, Phase.PREFILL, Phase.DECODE).map { manifest.graph(it)!!.freeRows })
        val index = graph.input(Role.LAST_INDEX)!!
        val logits = graph.output(Role.LOGITS)!!
        assertEquals(listOf<Any>(listOf(1L), listOf(1L, 1L, 4096L)), listOf(index.shape, logits.shape))
        assertEquals(listOf<Any>(listOf(-1L), listOf(1L, -1L, 4096L)), listOf(graph.fileShape(index), graph.fileShape(logits)))
        assertEquals(listOf(listOf(3L), listOf(1L, 3L, 4096L)), listOf(index, logits).map { graph.shapeOf(it, 8, 3).toList() })
        assertEquals(listOf(1L, 8L), graph.shapeOf(graph.input(Role.TOKENS)!!, 8, 3).toList())
        graph.checkRows(8, 8)
        for (rows in listOf(0, 9)) assertFails<GraphMismatchException> { graph.checkRows(8, rows) }
        val old = graph.copy(freeRows = false)
        assertEquals(listOf(listOf(1L), listOf(1L, 1L, 4096L)), listOf(index, logits).map { old.shapeOf(it, 8, 1).toList() })
        val error = assertFails<ManifestException> { ManifestReader.parse(text.replace("\"free_rows\": false", "\"free_rows\": true")) }
        assertTrue(error.what, "free_rows" in error.what)
    }

    @Test
    fun `a link out of the folder is refused`() {
        val folder = copy()
        val weights = File(folder, "weights.bin")
        val outside = File(temporary.root, "outside.bin")
        assertTrue(weights.renameTo(outside))
        Files.createSymbolicLink(weights.toPath(), outside.toPath())
        assertFails<UnsafePathException> { BundleFolder.open(folder) }
    }

    @Test
    fun `an unchanged file is read once, a changed one again`() {
        val folder = copy()
        val log = File(temporary.root, "verified.txt")
        val bundle = BundleFolder.open(folder)
        assertTrue(bundle.verify(VerificationLog(log)))
        var reads = 0
        assertTrue(bundle.verify(VerificationLog(log)) { _, _ -> reads++; true })
        assertEquals("only the last report", 1, reads)
        val weights = File(folder, "weights.bin")
        flip(weights, 7)
        weights.setLastModified(weights.lastModified() + 5000)
        assertFails<DamagedFileException> { bundle.verify(VerificationLog(log)) }
        assertFalse(bundle.verify { _, _ -> false })
    }

    @Test
    fun `too little memory is said before loading`() {
        val inPlace = fakeManifest(update = CacheUpdate.IN_PLACE)
        assertEquals(400L + 100 + 4 * 96, MemoryEstimate.of(inPlace, 4).resident)
        assertEquals(MemoryEstimate.of(inPlace, 16), MemoryEstimate.of(inPlace, 99))
        val manifest = fakeManifest()
        assertEquals("every slot is read, whatever the context", 400L + 100 + 16 * 96, MemoryEstimate.of(manifest, 4).resident)
        MemoryEstimate.of(manifest, 16).check(10_000)
        val error = assertFails<NotEnoughMemoryException> { MemoryEstimate(16, 3_000_000_000, 0).check(2_000_000_000) }
        assertTrue(error.message!!, "3000 MB" in error.message!! && "2000 MB" in error.message!!)
    }

    @Test
    fun `the cache's buffers have the bytes of the estimate, and closing gives them back`() {
        for ((name, manifest) in listOf(
            "in place" to fakeManifest(update = CacheUpdate.IN_PLACE, dynamic = true),
            "append" to fakeManifest(),
            "append, with shorter caches" to fakeManifest(buckets = listOf(4, 8)),
        )) {
            for (context in 1..16) {
                val allocator = CountingAllocator()
                val decoder = Decoder(manifest, FakeEngine(50), allocator)
                var most = allocator.bytes
                repeat(context) {
                    decoder.decode(5)
                    most = maxOf(most, allocator.bytes)
                }
                val estimate = MemoryEstimate.of(manifest, context).cache
                val expected = if (manifest.cache!!.update == CacheUpdate.IN_PLACE) estimate * 16 / context else estimate
                assertEquals("$name, $context tokens", expected, most)
                decoder.close()
                assertEquals(name, 0L, allocator.bytes)
                decoder.close()
            }
        }
    }

    @Test
    fun `everything that a text may need is loaded before it`() {
        val engine = FakeEngine(50)
        val manifest = fakeManifest(buckets = listOf(4, 8), widths = listOf(2, 4), prefillBuckets = listOf(3, 8))
        assertEquals("prefill graphs of 2 and 4 tokens, 3, 8 and 16 slots", 5 + 3, manifest.graphs.size)
        Decoder(manifest, engine).warmUp()
        assertEquals(manifest.graphs.toSet(), engine.loaded)
    }

    @Test
    fun `a bundle that ended the process is suspect until it is forgotten`() {
        val note = File(temporary.root, "loading.txt")
        val guard = CrashGuard(note)
        assertEquals("x", guard.loading("tiny") { assertEquals("tiny", CrashGuard(note).suspect()); "x" })
        assertEquals(null, guard.suspect())
        assertFails<IllegalStateException> { guard.loading("tiny") { error("failed, and lives") } }
        assertEquals(null, guard.suspect())
        note.writeText("tiny")
        assertEquals("tiny", guard.suspect())
        guard.forget()
        assertEquals(null, guard.suspect())
    }
}
