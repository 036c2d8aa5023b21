package dev.heliumedge.core

/** A value of a JSON document. */
public sealed interface Json {
    /** An object; the order of the document is kept. */
    public class Obj(public val fields: Map<String, Json>) : Json

    /** An array. */
    public class Arr(public val items: List<Json>) : Json

    /** A string. */
    public class Str(public val value: String) : Json

    /** A number, kept as it is spelled, so that large integers stay exact. */
    public class Num(public val text: String) : Json

    /** true or false. */
    public class Bool(public val value: Boolean) : Json

    /** null. */
    public object Null : Json

    public companion object {
        /** Reads one document; strict: no comments, no trailing commas, no NaN, no key twice. */
        @Throws(JsonException::class)
        public fun parse(text: String): Json = JsonReader(text).document()
    }
}

/** Text that is no JSON; callers turn it into an error that names the file. */
public class JsonException(message: String) : Exception(message)

private const val MAX_DEPTH = 100
private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?")

private class JsonReader(private val text: String) {
    private var at = 0

    fun document(): Json {
        val value = value(0)
        skipBlanks()
        if (at != text.length) fail("text after the end of the document")
        return value
    }

    private fun value(depth: Int): Json {
        if (depth > MAX_DEPTH) fail("nested too deeply")
        skipBlanks()
        return when (peek()) {
            '{' -> obj(depth)
            '[' -> array(depth)
            '"' -> Json.Str(string())
            't' -> word("true", Json.Bool(true))
            'f' -> word("false", Json.Bool(false))
            'n' -> word("null", Json.Null)
            else -> number()
        }
    }

    private fun obj(depth: Int): Json {
        val fields = LinkedHashMap<String, Json>()
        at++
        skipBlanks()
        if (peek() == '}') {
            at++
            return Json.Obj(fields)
        }
        while (true) {
            skipBlanks()
            if (peek() != '"') fail("a key is expected")
            val key = string()
            skipBlanks()
            expect(':')
            if (fields.put(key, value(depth + 1)) != null) fail("the key \"$key\" stands twice")
            skipBlanks()
            if (peek() == ',') at++ else break
        }
        expect('}')
        return Json.Obj(fields)
    }

    private fun array(depth: Int): Json {
        val items = ArrayList<Json>()
        at++
        skipBlanks()
        if (peek() == ']') {
            at++
            return Json.Arr(items)
        }
        while (true) {
            items.add(value(depth + 1))
            skipBlanks()
            if (peek() == ',') at++ else break
        }
        expect(']')
        return Json.Arr(items)
    }

    private fun string(): String {
        val start = ++at
        while (at < text.length && text[at] != '"' && text[at] != '\\' && text[at] >= ' ') at++
        if (peek() == '"') return text.substring(start, at++)
        val out = StringBuilder().append(text, start, at)
        while (true) {
            val c = peek()
            at++
            when {
                c == '"' -> return out.toString()
                c == '\\' -> out.append(escape())
                c < ' ' -> fail("a control character in a string")
                else -> out.append(c)
            }
        }
    }

    private fun escape(): Char {
        val c = peek()
        at++
        return when (c) {
            '"', '\\', '/' -> c
            'b' -> '\b'
            'f' -> '\u000C'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> unicode()
            else -> fail("an unknown escape \\$c")
        }
    }

    private fun unicode(): Char {
        var code = 0
        repeat(4) {
            val digit = Character.digit(peek(), 16)
            if (digit < 0) fail("four hexadecimal digits are expected after \\u")
            code = code * 16 + digit
            at++
        }
        return code.toChar()
    }

    private fun number(): Json {
        val start = at
        while (at < text.length && (text[at] in '0'..'9' || text[at] in "+-.eE")) at++
        val spelled = text.substring(start, at)
        if (!NUMBER.matches(spelled)) {
            at = start
            fail("a value is expected")
        }
        return Json.Num(spelled)
    }

    private fun word(word: String, value: Json): Json {
        if (!text.startsWith(word, at)) fail("a value is expected")
        at += word.length
        return value
    }

    private fun expect(c: Char) {
        if (peek() != c) fail("'$c' is expected")
        at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("the document ends too early")

    private fun skipBlanks() {
        while (at < text.length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) at++
    }

    private fun fail(what: String): Nothing {
        val line = text.substring(0, minOf(at, text.length)).count { it == '\n' } + 1
        throw JsonException("line $line: $what")
    }
}

/** Writes the few documents that the app writes; keys keep their order. */
public class JsonWriter {
    private val out = StringBuilder()
    private var first = true

    /** The document so far. */
    override fun toString(): String = out.toString()

    /** `"key": {...}`, or a bare object where [key] is null. */
    public fun obj(key: String? = null, body: JsonWriter.() -> Unit): JsonWriter = nested(key, '{', '}', body)

    /** `"key": [...]`. */
    public fun array(key: String? = null, body: JsonWriter.() -> Unit): JsonWriter = nested(key, '[', ']', body)

    /** `"key": value`; [value] is null, a Boolean, a finite number or text. */
    public fun field(key: String?, value: Any?): JsonWriter {
        start(key)
        when (value) {
            null, is Boolean, is Int, is Long -> out.append(value)
            is Double -> out.append(if (value.isNaN() || value.isInfinite()) "null" else value.toString())
            else -> quote(value.toString())
        }
        return this
    }

    private fun nested(key: String?, open: Char, close: Char, body: JsonWriter.() -> Unit): JsonWriter {
        start(key)
        out.append(open)
        first = true
        body()
        out.append(close)
        first = false
        return this
    }

    private fun start(key: String?) {
        if (!first) out.append(", ")
        first = false
        if (key != null) {
            quote(key)
            out.append(": ")
        }
    }

    private fun quote(text: String) {
        out.append('"')
        for (c in text) {
            when {
                c == '"' || c == '\\' -> out.append('\\').append(c)
                c < ' ' || c.isSurrogate() -> out.append("\\u").append(c.code.toString(16).padStart(4, '0'))
                else -> out.append(c)
            }
        }
        out.append('"')
    }
}
