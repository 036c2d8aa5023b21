package dev.heliumedge.core

import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.charset.CharacterCodingException

/** Far more than the tensors of a cache need, and little enough to be parsed: the limit of the Python host. */
private const val MAX_HEADER_BYTES = 2L shl 20
private const val LENGTH_BYTES = 8
private const val METADATA = "__metadata__"
private val ITEM_BYTES = mapOf(
    "BOOL" to 1L, "U8" to 1L, "I8" to 1L, "F8_E5M2" to 1L, "F8_E4M3" to 1L, "I16" to 2L, "U16" to 2L, "F16" to 2L,
    "BF16" to 2L, "I32" to 4L, "U32" to 4L, "F32" to 4L, "I64" to 8L, "U64" to 8L, "F64" to 8L,
)

/** The order of data in files of the library: types from the last one here to the first, then names. */
private val TYPE_RANK = listOf("I8", "F16", "I32", "F32")

/** What is wrong with a safetensors file; callers turn it into an error that names the file. */
internal class SafetensorsException(message: String) : Exception(message)

/** One tensor as a header has it; [begin] and [end] count from the start of the data. */
internal data class StoredTensor(val dtype: String, val shape: List<Long>, val begin: Long, val end: Long)

/**
 * The header of a safetensors file: 8 bytes with the length of a JSON text, that text, then the data of the tensors,
 * without holes.
 *
 * @property dataStart Where the data begins in the file.
 */
internal class SafetensorsHeader(val metadata: Map<String, String>, val tensors: Map<String, StoredTensor>, val dataStart: Long) {
    /** The first bytes of the file, up to its data. */
    fun bytes(): ByteArray {
        val json = StringBuilder("{\"$METADATA\":{")
        metadata.entries.joinTo(json, ",") { "\"${it.key}\":\"${it.value}\"" }
        json.append('}')
        for ((name, tensor) in tensors) {
            val shape = tensor.shape.joinToString(",")
            json.append(",\"$name\":{\"dtype\":\"${tensor.dtype}\",\"shape\":[$shape],\"data_offsets\":[${tensor.begin},${tensor.end}]}")
        }
        json.append('}')
        // Data is aligned to 8 bytes, so that it can be mapped.
        while (json.length % LENGTH_BYTES != 0) json.append(' ')
        return ByteBuffer.allocate(LENGTH_BYTES + json.length).order(ByteOrder.LITTLE_ENDIAN)
            .putLong(json.length.toLong()).put(json.toString().toByteArray(Charsets.US_ASCII)).array()
    }

    companion object {
        /** A header for tensors of these types and shapes, laid out as the library does; names are plain ASCII. */
        fun of(metadata: Map<String, String>, specs: Map<String, Pair<String, List<Long>>>): SafetensorsHeader {
            val order = compareByDescending<String> { TYPE_RANK.indexOf(specs.getValue(it).first) }.thenBy { it }
            val tensors = LinkedHashMap<String, StoredTensor>()
            var at = 0L
            for (name in specs.keys.sortedWith(order)) {
                val (dtype, shape) = specs.getValue(name)
                val end = at + shape.fold(ITEM_BYTES.getValue(dtype), Long::times)
                tensors[name] = StoredTensor(dtype, shape, at, end)
                at = end
            }
            return SafetensorsHeader(metadata, tensors, 0)
        }

        /**
         * Reads a header of a file of any origin: every size is checked before it is used.
         *
         * @throws SafetensorsException It is truncated, or no such file.
         * @throws IOException It cannot be read.
         */
        fun read(file: FileChannel): SafetensorsHeader {
            val size = file.size()
            if (size < LENGTH_BYTES) fail("$size bytes is no safetensors file")
            val length = block(file, 0, LENGTH_BYTES).order(ByteOrder.LITTLE_ENDIAN).getLong(0)
            if (length < 0 || length > MAX_HEADER_BYTES) {
                fail("is no safetensors file, its header would be ${length.toULong()} bytes (limit $MAX_HEADER_BYTES)")
            }
            val dataStart = LENGTH_BYTES + length
            if (dataStart > size) fail("is truncated, its header ends at byte $dataStart of $size")
            val fields = objectOf(block(file, LENGTH_BYTES.toLong(), length.toInt()))
            val metadata = fields[METADATA]?.let(::metadata).orEmpty()
            val tensors = (fields - METADATA).mapValues { (name, entry) -> tensor(name, entry, size - dataStart) }
            checkLayout(tensors, size - dataStart)
            return SafetensorsHeader(metadata, tensors, dataStart)
        }

        private fun block(file: FileChannel, from: Long, bytes: Int): ByteBuffer =
            ByteBuffer.allocate(bytes).also { readFully(file, it, from) }

        private fun objectOf(bytes: ByteBuffer): Map<String, Json> = try {
            val text = Charsets.UTF_8.newDecoder().decode(bytes).toString()
            (Json.parse(text) as? Json.Obj)?.fields ?: fail("its header is no JSON object")
        } catch (error: JsonException) {
            fail("its header is no valid JSON: ${error.message}")
        } catch (error: CharacterCodingException) {
            fail("its header is no valid UTF-8: ${error.message}")
        }

        private fun metadata(value: Json): Map<String, String> {
            val fields = (value as? Json.Obj)?.fields ?: fail("its metadata is no JSON object")
            return fields.mapValues { (it.value as? Json.Str)?.value ?: fail("its metadata holds what is no text") }
        }

        private fun tensor(name: String, value: Json, dataBytes: Long): StoredTensor {
            val fields = (value as? Json.Obj)?.fields.orEmpty()
            val dtype = (fields["dtype"] as? Json.Str)?.value
            val shape = sizes(fields["shape"])
            val offsets = sizes(fields["data_offsets"])
            if (fields.size != 3 || dtype == null || shape == null || offsets == null || offsets.size != 2 || offsets[0] > offsets[1]) {
                fail("tensor ${shown(name)} has a malformed header entry")
            }
            val (begin, end) = offsets
            if (end > dataBytes) fail("is truncated, tensor ${shown(name)} ends at byte $end of its data, the file holds $dataBytes bytes of data")
            val bytes = bytesOf(dtype, shape)
            if (bytes != end - begin) fail("tensor ${shown(name)} of $dtype and shape $shape does not take ${end - begin} bytes")
            return StoredTensor(dtype, shape, begin, end)
        }

        /** Bytes of a tensor; null for an unknown type, or for more than any file holds. */
        private fun bytesOf(dtype: String, shape: List<Long>): Long? {
            var bytes = ITEM_BYTES[dtype] ?: return null
            if (0L in shape) return 0
            for (dimension in shape) {
                if (dimension > Long.MAX_VALUE / bytes) return null
                bytes *= dimension
            }
            return bytes
        }

        private fun sizes(value: Json?): List<Long>? {
            val items = (value as? Json.Arr)?.items ?: return null
            return items.map { (it as? Json.Num)?.text?.toLongOrNull()?.takeIf { size -> size >= 0 } ?: return null }
        }

        /** Every byte of data belongs to one tensor. */
        private fun checkLayout(tensors: Map<String, StoredTensor>, dataBytes: Long) {
            var at = 0L
            for ((name, tensor) in tensors.entries.sortedWith(compareBy({ it.value.begin }, { it.value.end }))) {
                if (tensor.begin != at) fail("tensor ${shown(name)} begins at byte ${tensor.begin} of the data, where $at is expected")
                at = tensor.end
            }
            if (at != dataBytes) fail("its tensors end at byte $at of $dataBytes bytes of data")
        }

        private fun fail(what: String): Nothing = throw SafetensorsException(what)
    }
}

/** A name out of a file of any origin, for a message of one line. */
internal fun shown(name: String): String = "\"" + name.take(60).map { if (it in ' '..'~') it else '?' }.joinToString("") + "\""

/**
 * Fills a buffer with what a file has from [from] on.
 *
 * @throws SafetensorsException The file ends before: it was cut after its size was asked for.
 */
internal fun readFully(file: FileChannel, target: ByteBuffer, from: Long) {
    var at = from
    while (target.hasRemaining()) {
        val count = file.read(target, at)
        if (count < 0) throw SafetensorsException("is truncated at byte $at")
        at += count
    }
    target.flip()
}
