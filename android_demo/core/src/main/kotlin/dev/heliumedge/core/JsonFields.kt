package dev.heliumedge.core

private const val LARGEST = (1L shl 53) - 1

/** A JSON object whose fields are read with their types; what does not fit is an error that names the field. */
internal class JsonFields(private val fields: Map<String, Json>, private val path: String) {
    val keys: Set<String> get() = fields.keys

    fun has(key: String): Boolean = fields[key] != null && fields[key] != Json.Null

    fun obj(key: String): JsonFields = of(require(key), where(key))

    fun objOrNull(key: String): JsonFields? = if (has(key)) obj(key) else null

    fun text(key: String): String =
        (require(key) as? Json.Str)?.value ?: fail(key, "must be text")

    fun textOrNull(key: String): String? = if (has(key)) text(key) else null

    fun flag(key: String): Boolean = (require(key) as? Json.Bool)?.value ?: fail(key, "must be true or false")

    fun number(key: String): Double = double(require(key), key)

    fun count(key: String, atLeast: Long = 0): Long = long(require(key), key, atLeast)

    fun int(key: String, atLeast: Long = 0): Int = fit(count(key, atLeast), key)

    fun intOrNull(key: String, atLeast: Long = 0): Int? = if (has(key)) int(key, atLeast) else null

    /** A field that must be there, and may be null. */
    fun nullableInt(key: String, atLeast: Long = 0): Int? = if (require(key) == Json.Null) null else int(key, atLeast)

    /** A field that must be there, and may be null. */
    fun nullableText(key: String): String? = if (require(key) == Json.Null) null else text(key)

    fun items(key: String): List<Json> = (require(key) as? Json.Arr)?.items ?: fail(key, "must be a list")

    fun objects(key: String): List<JsonFields> = items(key).mapIndexed { index, item -> of(item, "${where(key)}[$index]") }

    fun ints(key: String): IntArray {
        val items = items(key)
        return IntArray(items.size) { fit(long(items[it], "$key[$it]", 0), "$key[$it]") }
    }

    fun numbers(key: String): DoubleArray {
        val items = items(key)
        return DoubleArray(items.size) { double(items[it], "$key[$it]") }
    }

    fun fail(key: String, what: String): Nothing = throw ManifestException("${where(key)} $what")

    private fun require(key: String): Json = fields[key] ?: fail(key, "is missing")

    private fun where(key: String): String = if (path.isEmpty()) key else "$path.$key"

    private fun double(value: Json, key: String): Double {
        val number = (value as? Json.Num)?.text?.toDouble() ?: fail(key, "must be a number")
        return if (number.isInfinite()) fail(key, "is too large") else number
    }

    private fun long(value: Json, key: String, atLeast: Long): Long {
        val number = (value as? Json.Num)?.text?.toLongOrNull() ?: fail(key, "must be a whole number")
        return if (number in atLeast..LARGEST) number else fail(key, "= $number is out of range; allowed: $atLeast and above")
    }

    private fun fit(value: Long, key: String): Int =
        if (value <= Int.MAX_VALUE) value.toInt() else fail(key, "= $value is more than this app can hold")

    companion object {
        fun of(value: Json, path: String): JsonFields =
            (value as? Json.Obj)?.let { JsonFields(it.fields, path) }
                ?: throw ManifestException("${path.ifEmpty { "the document" }} must be an object")
    }
}
