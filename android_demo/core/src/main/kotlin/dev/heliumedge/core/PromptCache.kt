package dev.heliumedge.core

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

private const val FORMAT = "helium-edge/prompt-cache"
private const val VERSION = "1"
private const val IDS = "ids"

/**
 * A KV cache in a file, so that a long prompt is run once in its life. docs/bundle.md has the format, which is the one
 * of the Python host: files of one are read by the other.
 */
public object PromptCache {
    /**
     * Writes what the cache of a decoder holds, or its first [tokens]; the file appears whole or not at all.
     *
     * @param bundle sha256 of the bundle's manifest: [BundleFolder.manifestSha256].
     * @return How many tokens were written.
     * @throws InvalidRequestException The cache is empty.
     * @throws StorageException The file cannot be written.
     */
    public fun save(file: File, decoder: Decoder, bundle: String, tokens: Int = Int.MAX_VALUE): Int {
        val ids = decoder.cachedTokens()
        val count = minOf(tokens, ids.size)
        if (count < 1) throw InvalidRequestException(Phrase.CACHE_EMPTY.with(), Phrase.RUN_FIRST.with())
        val header = SafetensorsHeader.of(mapOf("format" to FORMAT, "version" to VERSION, "bundle" to bundle), specs(decoder.cacheSpec, count))
        try {
            replacing(file) { channel ->
                writeFully(channel, ByteBuffer.wrap(header.bytes()))
                for (name in header.tensors.keys) {
                    if (name == IDS) writeFully(channel, bytesOf(ids, count)) else rows(decoder, name, count).forEach { writeFully(channel, it) }
                }
            }
        } catch (error: IOException) {
            throw StorageException(Phrase.CANNOT_WRITE.with(file.name, error.message.orEmpty()), error)
        }
        return count
    }

    /**
     * Fills the cache of a decoder from a file; what [Decoder.follow] is given next goes on behind it. A file that is
     * refused changes nothing.
     *
     * @param bundle sha256 of the bundle's manifest: [BundleFolder.manifestSha256].
     * @return How many tokens the cache holds then.
     * @throws PromptCacheException The file is missing, truncated, of another kind or of another bundle.
     * @throws StorageException It cannot be read.
     */
    public fun load(file: File, decoder: Decoder, bundle: String): Int {
        if (!file.isFile) throw PromptCacheException(Phrase.NO_KEPT_CACHE.with(file.name))
        try {
            RandomAccessFile(file, "r").use { opened ->
                val channel = opened.channel
                val header = SafetensorsHeader.read(channel)
                val ids = checked(header, channel, decoder, bundle)
                // From here on the file is right; should reading fail all the same, the cache is left empty.
                decoder.restore(ids) { name, target -> readTensor(header, channel, name, target) }
                return ids.size
            }
        } catch (error: SafetensorsException) {
            throw PromptCacheException("${file.name}: ${error.message}", error)
        } catch (error: IOException) {
            throw StorageException(Phrase.CANNOT_READ.with(file.name, error.message.orEmpty()), error)
        }
    }

    /** The ids in the file, after everything that can be said without the rows. */
    private fun checked(header: SafetensorsHeader, channel: FileChannel, decoder: Decoder, bundle: String): IntArray {
        val metadata = header.metadata
        if (metadata["format"] != FORMAT) fail("is no prompt cache of helium-edge")
        if (metadata["version"] != VERSION) fail("version ${metadata["version"]?.let(::shown)} of prompt caches is not known; known: $VERSION")
        if (metadata["bundle"] != bundle) fail("was saved with another bundle")
        val stored = header.tensors[IDS]
        val count = stored?.shape?.singleOrNull() ?: 0
        if (stored?.dtype != "I32" || count !in 1..decoder.cacheLen) fail("has no list of 1 to ${decoder.cacheLen} token ids")
        val expected = specs(decoder.cacheSpec, count.toInt())
        val found = header.tensors.mapValues { it.value.dtype to it.value.shape }
        (expected.keys + found.keys).filter { expected[it] != found[it] }.minOrNull()?.let { fail("tensor ${shown(it)} does not fit the cache") }
        val bytes = ByteBuffer.allocate(4 * count.toInt()).order(ByteOrder.LITTLE_ENDIAN)
        readFully(channel, bytes, header.dataStart + stored.begin)
        val ids = IntArray(count.toInt()) { bytes.getInt(4 * it) }
        ids.firstOrNull { it !in 0 until decoder.vocabSize }?.let { fail("token id $it is outside the vocabulary of ${decoder.vocabSize}") }
        return ids
    }

    private fun readTensor(header: SafetensorsHeader, channel: FileChannel, name: String, rows: List<ByteBuffer>) {
        var at = header.dataStart + header.tensors.getValue(name).begin
        for (target in rows) {
            val bytes = target.remaining()
            readFully(channel, target, at)
            at += bytes
        }
    }

    /** Type and shape of every tensor of a file with so many tokens. */
    private fun specs(cache: CacheSpec, count: Int): Map<String, Pair<String, List<Long>>> {
        val rows = typeOf(cache.dtype) to listOf(cache.kvHeads.toLong(), count.toLong(), cache.headDim.toLong())
        return tensorNames(cache.layers).associateWith { rows } + (IDS to ("I32" to listOf(count.toLong())))
    }

    private fun typeOf(dtype: Dtype): String = when (dtype) {
        Dtype.FLOAT32 -> "F32"
        Dtype.FLOAT16 -> "F16"
        Dtype.INT8 -> "I8"
        Dtype.INT32, Dtype.INT64 -> throw InvalidRequestException("a cache of ${dtype.id} has no file format", "Export with another kv_cache.")
    }

    /** Rows of each head, one behind the other as they are in the file. */
    private fun rows(decoder: Decoder, name: String, count: Int): List<ByteBuffer> =
        decoder.cachedRows(tensorNames(decoder.cacheSpec.layers).indexOf(name), count)

    private fun bytesOf(ids: IntArray, count: Int): ByteBuffer {
        val bytes = ByteBuffer.allocate(4 * count).order(ByteOrder.LITTLE_ENDIAN)
        for (index in 0 until count) bytes.putInt(ids[index])
        bytes.flip()
        return bytes
    }

    private fun fail(what: String): Nothing = throw SafetensorsException(what)
}

/** Names of the tensors in a file: key and value of each layer in turn, as the buffers of the cache. */
internal fun tensorNames(layers: Int): List<String> = List(2 * layers) { "layers.${it / 2}.${if (it % 2 == 0) "key" else "value"}" }

/**
 * Writes a file beside its place, brings it to the storage and renames it: a reader sees what was there before, or the
 * whole of it, also after a loss of power.
 */
private fun replacing(file: File, write: (FileChannel) -> Unit) {
    val place = file.absoluteFile
    val partial = File.createTempFile(".${place.name}.partial-", "", place.parentFile)
    try {
        FileOutputStream(partial).use { stream ->
            write(stream.channel)
            stream.fd.sync()
        }
        if (!partial.renameTo(place)) throw IOException("${partial.name} cannot be renamed")
    } finally {
        partial.delete()
    }
}

private fun writeFully(channel: FileChannel, bytes: ByteBuffer) {
    while (bytes.hasRemaining()) channel.write(bytes)
}
